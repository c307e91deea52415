"""A comparison that was interrupted goes on where it was, and its file stays whole."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sparse_lens.evals.compare import compare
from sparse_lens.evals.results import RESULTS_FILE, Results, ResultsWriter, drawing_path
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex, Failing

LABELS = {"a": ByIndex(step=3), "b": ByIndex(step=5)}
MODEL, TASK = toy.model(), toy.task()


def run(out: Path, methods=None, **changes):
    """A comparison, and the labels of the jobs that really ran."""
    ran = []

    def note(progress):
        if progress.record is not None and not progress.resumed:
            ran.append((progress.method, progress.seed))

    results = compare(
        [MODEL], [TASK], methods or LABELS, out=out, budgets=BUDGETS, random_draws=1,
        progress=note, **changes,
    )  # fmt: skip
    return results, ran


def test_finished_jobs_are_not_run_again(tmp_path):
    first, ran = run(tmp_path)
    assert ran == [("a", 0), ("b", 0)]
    content = (tmp_path / RESULTS_FILE).read_bytes()
    second, ran = run(tmp_path)
    assert ran == []
    assert second.records == first.records
    assert (tmp_path / RESULTS_FILE).read_bytes() == content
    more, ran = run(tmp_path, seeds=2)
    assert ran == [("a", 1), ("b", 1)]
    assert [(r.method, r.seed) for r in more] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert Results.load(tmp_path).records == more.records


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_line_cut_short_is_dropped_and_its_job_runs_again(tmp_path, left):
    whole, _ = run(tmp_path)
    path = tmp_path / RESULTS_FILE
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:left])
    with pytest.warns(UserWarning, match="was not written to its end"):
        assert [record.method for record in Results.load(tmp_path)] == ["a"]
    with pytest.warns(UserWarning, match="was not written to its end"):
        again, ran = run(tmp_path)
    assert ran == [("b", 0)]
    assert [json.loads(line)["method"] for line in path.read_bytes().splitlines()] == ["a", "b"]
    assert _without_times(again) == _without_times(whole)


def test_a_broken_line_inside_is_an_error_with_its_number(tmp_path):
    run(tmp_path)
    path = tmp_path / RESULTS_FILE
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first[:50] + b"\n" + second)
    with pytest.raises(ValueError, match="line 1"):
        Results.load(tmp_path)


@pytest.mark.parametrize("path_of", [lambda path: path, drawing_path], ids=["circuit", "drawing"])
def test_a_lost_file_is_found_again(tmp_path, path_of):
    results, _ = run(tmp_path, target=Target(5.0))
    lost = path_of(results.circuit_path(results.records[1]))
    content = lost.read_bytes()
    lost.unlink()
    _, ran = run(tmp_path, target=Target(5.0))
    assert ran == [("b", 0)]
    assert lost.read_bytes() == content
    assert len(Results.load(tmp_path)) == 2


def test_failed_jobs_run_again_and_the_last_record_counts(tmp_path):
    broken, _ = run(tmp_path, {"a": Failing()})
    assert len(broken.failed) == 1
    _, ran = run(tmp_path, {"a": Failing()})
    assert ran == [("a", 0)]
    _, ran = run(tmp_path, {"a": ByIndex()})
    assert ran == [("a", 0)]
    loaded = Results.load(tmp_path)
    assert [record.status for record in loaded] == ["done"]
    assert len((tmp_path / RESULTS_FILE).read_bytes().splitlines()) == 3


def test_what_ran_last_in_a_place_is_what_is_read(tmp_path):
    """Other settings under the same label do not mix with the old rows, nor hide them for ever."""
    run(tmp_path, target=Target(0.15))
    run(tmp_path, target=Target(0.9))
    assert {record.target_loss for record in Results.load(tmp_path)} == {0.9}
    back, ran = run(tmp_path, target=Target(0.15))
    assert ran == []
    assert Results.load(tmp_path).records == back.records
    assert len((tmp_path / RESULTS_FILE).read_bytes().splitlines()) == 6


def test_every_append_is_one_whole_line(tmp_path):
    results, _ = run(tmp_path)
    record = results.records[0]
    with ResultsWriter(tmp_path) as writer:
        writer.append(replace(record, error="two\nlines", task="ünïcode\u2028"))
    lines = (tmp_path / RESULTS_FILE).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert json.loads(lines[-1])["error"] == "two\nlines"


WRITING = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
sys.stdout.write("locked\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_one_comparison_at_a_time_writes_to_a_folder(tmp_path):
    command = [sys.executable, "-c", WRITING, str(tmp_path / ".lock")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match="another comparison is writing"):
        ResultsWriter(tmp_path)
    other.communicate()
    with ResultsWriter(tmp_path):
        pass


DYING = """
import os, signal, sys
from sparse_lens.evals import results
from sparse_lens.evals.compare import compare
from tests.evals import toy_comparison as toy

def die_in_the_middle(file, line):
    if b'"method": "b"' in line:
        write(file, line[:len(line) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(file, line)

write, os.write = os.write, die_in_the_middle
methods = {"a": toy.ByIndex(step=3), "b": toy.ByIndex(step=5)}
compare(
    [toy.model()], [toy.task()], methods, out=sys.argv[1], budgets=toy.BUDGETS, random_draws=1
)
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_a_line(tmp_path):
    command = [sys.executable, "-c", DYING, str(tmp_path / "killed")]
    died = subprocess.run(command, env=_environment(), check=False)
    assert died.returncode == -signal.SIGKILL
    unfinished = tmp_path / "killed" / "circuits" / ".one.safetensors.0.part"
    unfinished.write_bytes(b"half")
    assert not (tmp_path / "killed" / RESULTS_FILE).read_bytes().endswith(b"\n")
    with pytest.warns(UserWarning, match="was not written to its end"):
        again, ran = run(tmp_path / "killed")
    assert ran == [("b", 0)]
    assert not unfinished.exists()
    whole, _ = run(tmp_path / "whole")
    assert _without_times(again) == _without_times(whole)
    lines = (tmp_path / "killed" / RESULTS_FILE).read_bytes().splitlines()
    assert [json.loads(line)["method"] for line in lines] == ["a", "b"]


SCRIPT = """
import sys
from sparse_lens.evals.compare import compare
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy

def say(progress):
    if progress.record is not None:
        sys.stdout.write(f"{progress.number} {progress.resumed}\\n")
        sys.stdout.flush()

methods = {f"m{step}": toy.ByIndex(step=step) for step in (3, 5, 7, 9)}
for out in sys.argv[1:]:
    compare([toy.model()], [toy.task()], methods, out=out, budgets=toy.BUDGETS, progress=say)
"""


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    """SIGKILL while the third job runs: the first two are there, the rest follows."""

    def start(*folders: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in folders)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment())

    process = start("killed")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["1 False\n", "2 False\n"]
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    output, _ = start("killed", "whole").communicate()
    finished = output.splitlines()
    assert finished[:2] == ["1 True", "2 True"]
    assert finished[3] == "4 False"
    assert finished[4:] == ["1 False", "2 False", "3 False", "4 False"]
    killed, whole = Results.load(tmp_path / "killed"), Results.load(tmp_path / "whole")
    assert _without_times(killed) == _without_times(whole)
    for record in killed:
        path = killed.circuit_path(record)
        assert path.read_bytes() == whole.circuit_path(record).read_bytes()


def _environment() -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def _without_times(results: Results):
    return [toy.without_durations(record) for record in results]
