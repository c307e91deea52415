"""Comparisons in several processes: the same numbers, and no death that matters."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from sparse_lens.evals.compare import Comparison, compare
from sparse_lens.evals.harness import workers
from sparse_lens.evals.results import RESULTS_FILE, Results
from sparse_lens.graphs import ChannelGraph
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex, Dying, Failing, without_durations

ROOT = Path(__file__).resolve().parents[2]
METHODS = {"a": ByIndex(step=3), "b": ByIndex(step=5)}


def run(out: Path, methods=None, **changes):
    return compare(
        [toy.model()], [toy.task()], methods or METHODS, out=out, budgets=BUDGETS, random_draws=1,
        **changes,
    )  # fmt: skip


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_one_and_survive_a_death(tmp_path):
    """With models as objects, and a method and a graph that no other process can import."""

    @dataclass(frozen=True)
    class Mine(ByIndex):
        step: int = 11

    methods = {"dying": Dying(), "bad": Failing(), "mine": Mine(), **METHODS}

    def graph_of(model):
        return ChannelGraph.from_model(model, final_resid=False)

    seen = []
    shared = run(
        tmp_path / "two",
        methods,
        graph=graph_of,
        target=Target(5.0),
        workers=2,
        progress=seen.append,
    )
    alone = run(
        tmp_path / "one", {label: methods[label] for label in ("bad", "mine", "a", "b")},
        graph=graph_of, target=Target(5.0),
    )  # fmt: skip
    assert [record.method for record in shared] == list(methods), "in the order of the jobs"
    assert [record.order for record in shared] == list(range(5))
    died, bad = shared.failed
    assert (died.method, bad.method) == ("dying", "bad")
    assert "ended with exit code 3 while it ran this job" in str(died.error)
    assert "ZeroDivisionError: no circuit today" in str(bad.error)

    mine = [record for record in shared if record.status == "done"]
    theirs = [record for record in alone if record.status == "done"]
    assert len(mine) == len(theirs) == 3
    for here, there in zip(mine, theirs, strict=True):
        here = replace(here, order=there.order, method_class=there.method_class)
        assert without_durations(here) == without_durations(there)
        paths = shared.circuit_path(here), alone.circuit_path(there)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert shared.drawing(here) == alone.drawing(there)

    begun = [p.number for p in seen if p.record is None]
    ended = [p.number for p in seen if p.record is not None]
    assert sorted(begun) == sorted(ended) == list(range(1, 6))
    assert sum(seen[-1].remaining.values()) == 0
    assert Results.load(tmp_path / "two").records == shared.records
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_interruption_stops_workers_and_keeps_what_ended(tmp_path):
    def interrupt(progress):
        if progress.record is not None:
            raise KeyboardInterrupt

    methods = {"a": ByIndex(), "slow": toy.Slow(seconds=600.0), "never": ByIndex(step=9)}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, methods, workers=2, progress=interrupt)
    assert not multiprocessing.active_children()
    assert len(Results.load(tmp_path)) == 1


def test_workers_that_do_not_start_end_the_comparison(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(workers, "_serve", os._exit)  # which takes one argument, not two
    with pytest.raises(RuntimeError, match=r"exit code 1 before it took a job.*__main__"):
        run(tmp_path, workers=2)
    assert "TypeError" in capfd.readouterr().err
    assert not multiprocessing.active_children()
    assert (tmp_path / RESULTS_FILE).read_bytes() == b""


def test_threads_are_shared_out(tmp_path, monkeypatch):
    asked = []

    class Started(Exception):
        pass

    class Worker:
        def __init__(self, threads):
            asked.append(threads)
            raise Started

    monkeypatch.setattr(workers, "_Worker", Worker)
    jobs = dict(enumerate(Comparison([toy.model()], [toy.task()], METHODS, seeds=4).jobs()))
    for here, n, each in ((8, 2, 4), (8, 3, 2), (1, 4, 1), (8, 100, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda here=here: here)
        with pytest.raises(Started):
            next(workers.in_workers(jobs, n))
        assert asked.pop() == each
    assert next(workers.in_workers({}, 2), None) is None


def test_workers_are_killed_when_the_next_does_not_start(monkeypatch):
    started, killed = [], []

    class Worker:
        def __init__(self, threads):
            if started:
                raise OSError("no more processes")
            started.append(self)

        def kill(self):
            killed.append(self)

    monkeypatch.setattr(workers, "_Worker", Worker)
    jobs = dict(enumerate(Comparison([toy.model()], [toy.task()], METHODS).jobs()))
    with pytest.raises(OSError, match="no more processes"):
        next(workers.in_workers(jobs, 2))
    assert killed == started != []


def test_a_worker_takes_what_it_has_loaded():
    models = [toy.model(), toy.model(activation_type="relu")]
    tasks = [toy.task("one"), toy.task("two")]
    jobs = dict(enumerate(Comparison(models, tasks, METHODS, budgets=BUDGETS).jobs()))
    # Jobs 0 to 3 are of the first model, and of these 0 and 1 of the first task.
    assert workers.next_job(jobs, None, []) == 0
    assert workers.next_job(jobs, None, [jobs[0]]) == 4, "a model that no worker runs"
    assert workers.next_job(jobs, jobs[6], [jobs[0]]) == 6, "its model and task"
    left = {index: jobs[index] for index in (1, 3, 5)}
    assert workers.next_job(left, jobs[2], []) == 3
    assert workers.next_job(left, jobs[7], [jobs[0]]) == 5, "its model, another task"
    left = {index: jobs[index] for index in (1, 3)}
    assert workers.next_job(left, jobs[7], [jobs[0]]) == 1, "nothing else is left"


def test_how_a_process_ended():
    assert workers._how_it_ended(3) == "ended with exit code 3"
    assert workers._how_it_ended(-9) == "was killed by signal 9 (SIGKILL)"
    assert workers._how_it_ended(-60) == "was killed by signal 60"


SCRIPT = """
import sys
from sparse_lens.evals.compare import compare
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy

def say(progress):
    if progress.record is not None:
        sys.stdout.write(f"{progress.number} {progress.resumed}\\n")
        sys.stdout.flush()

if __name__ == "__main__":
    methods = {"a": toy.ByIndex(), "slow": toy.Slow(seconds=float(sys.argv[2]))}
    compare(
        [toy.model()], [toy.task()], methods, out=sys.argv[1], budgets=toy.BUDGETS, random_draws=1,
        workers=2, progress=say,
    )
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_workers_end_when_their_comparison_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    command = [sys.executable, str(script), str(tmp_path / "out"), "600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "1 False\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    at_work = [child for child in children if _is_worker(child)]
    assert at_work, "one sleeps in its job"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    while any(_is_worker(child) for child in at_work):
        time.sleep(0.05)  # the suite's own limit ends a test that waits for ever

    assert [record.method for record in Results.load(tmp_path / "out")] == ["a"]
    seen = []
    again = run(tmp_path / "out", {"a": ByIndex(), "slow": toy.Slow()}, progress=seen.append)
    assert [(p.method, p.resumed) for p in seen if p.record] == [("a", True), ("slow", False)]
    assert Results.load(tmp_path / "out").records == again.records


def _is_worker(pid: str) -> bool:
    try:
        return "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
