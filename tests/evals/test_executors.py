"""Comparisons through other people's executors, of which little is asked."""

import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import pytest
import torch

from sparse_lens.evals.compare import Comparison, compare
from sparse_lens.evals.harness import pickling
from sparse_lens.evals.harness.jobs import run_job
from sparse_lens.evals.harness.workers import in_workers
from sparse_lens.evals.results import Results
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex, Dying, Failing, without_durations

METHODS = {"a": ByIndex(step=3), "bad": Failing(), "b": ByIndex(step=5)}


def run(out, methods=None, **changes):
    return compare(
        [toy.model()], [toy.task()], methods or METHODS, out=out, budgets=BUDGETS, random_draws=1,
        **changes,
    )  # fmt: skip


class OnlyWhatIsAsked:
    """A future with nothing but `result` and `add_done_callback`."""

    def __init__(self, future: Future):
        self._future = future

    def result(self):
        return self._future.result()

    def add_done_callback(self, fn):
        self._future.add_done_callback(lambda _: fn(self))


class LastComesFirst:
    """An executor with nothing but `submit`, which begins when it has `n` calls, with the last."""

    def __init__(self, n: int):
        self._n, self._calls = n, []

    def submit(self, fn, /, *args):
        future: Future = Future()
        self._calls.append((future, fn, args))
        if len(self._calls) == self._n:
            threading.Thread(target=self._run).start()
        return OnlyWhatIsAsked(future)

    def _run(self):
        for future, fn, args in reversed(self._calls):
            future.set_result(fn(*args))


def test_jobs_may_end_in_any_order(tmp_path):
    seen = []
    there = run(tmp_path / "there", executor=LastComesFirst(3), progress=seen.append)
    here = run(tmp_path / "here")
    assert [record.method for record in there] == ["a", "bad", "b"]
    assert [p.number for p in seen] == [3, 2, 1], "rows are written as jobs end"
    assert all(p.record is not None for p in seen)
    assert [p.remaining for p in seen] == [
        {"a": 1, "bad": 1, "b": 0}, {"a": 1, "bad": 0, "b": 0}, {"a": 0, "bad": 0, "b": 0},
    ]  # fmt: skip
    assert "ZeroDivisionError: no circuit today" in str(there.failed[0].error)
    loaded = Results.load(tmp_path / "there")
    assert loaded.records == there.records, "the order of the jobs, not of the file"
    for mine, theirs in zip(there.done, here.done, strict=True):
        assert without_durations(mine) == without_durations(theirs)
    again = run(tmp_path / "there", {"a": METHODS["a"], "b": METHODS["b"]}, executor=Refusing())
    assert len(again) == 2, "what ended is not run again"


class Refusing:
    """Takes no job."""

    def submit(self, fn, /, *args):
        raise AssertionError("nothing is left to run")


class Losing:
    """Loses the second job, as an engine does whose machine went away."""

    n = 0

    def submit(self, fn, /, *args):
        future: Future = Future()
        self.n += 1
        if self.n == 2:
            future.set_exception(ConnectionError("the machine went away"))
        else:
            future.set_result(fn(*args))
        return future


def test_a_lost_job_has_failed_and_the_others_go_on(tmp_path):
    results = run(tmp_path, executor=Losing())
    assert [record.status for record in results] == ["done", "failed", "done"]
    assert "ConnectionError: the machine went away" in str(results.failed[0].error)


class Breaking:
    """Runs one job, and has a process die in the next."""

    def __init__(self):
        self.futures = []

    def submit(self, fn, /, *args):
        if len(self.futures) == 3:
            raise BrokenProcessPool("a child process terminated abruptly")
        future: Future = Future()
        if self.futures:
            future.set_exception(BrokenProcessPool("a child process terminated abruptly"))
        else:
            future.set_result(fn(*args))
        self.futures.append(future)
        return future


def test_a_broken_executor_blames_no_job(tmp_path):
    methods = {f"m{step}": ByIndex(step=step) for step in (3, 5, 7, 9)}
    with pytest.raises(RuntimeError, match=r"terminated abruptly.*again with a new executor"):
        run(tmp_path, methods, executor=Breaking())
    assert [record.method for record in Results.load(tmp_path)] == ["m3"]
    seen = []
    run(tmp_path, methods, progress=seen.append)
    assert [p.method for p in seen if p.record is not None and p.resumed] == ["m3"]
    assert len(Results.load(tmp_path).done) == 4


def test_interruption_cancels_what_has_not_begun(tmp_path):
    futures = []

    class Keeping(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            futures.append(super().submit(fn, *args, **kwargs))
            return futures[-1]

    def interrupt(_):
        raise KeyboardInterrupt

    methods = {f"m{step}": ByIndex(step=step) for step in range(3, 12)}
    with Keeping(1) as pool, pytest.raises(KeyboardInterrupt):
        run(tmp_path, methods, executor=pool, progress=interrupt)
    assert futures[-1].cancelled()
    assert not futures[0].cancelled()
    assert len(Results.load(tmp_path)) == 1


def test_threads_do_not_hook_into_one_model(tmp_path):
    """Each thread has a copy of a model that was passed, so that jobs there may overlap."""
    model = toy.model()
    methods = {f"m{step}": ByIndex(step=step) for step in range(3, 9)}
    with ThreadPoolExecutor(3) as pool:
        there = compare(
            [model], [toy.task()], methods, out=tmp_path / "there", budgets=BUDGETS, executor=pool
        )
    here = compare([model], [toy.task()], methods, out=tmp_path / "here", budgets=BUDGETS)
    assert len(there.done) == 6
    for mine, theirs in zip(there, here, strict=True):
        assert without_durations(mine) == without_durations(theirs)


@dataclass(frozen=True)
class Unpicklable(ByIndex):
    """Holds what cannot leave its process; not a field, so it can be written down."""

    def __post_init__(self):
        object.__setattr__(self, "lock", threading.Lock())


@dataclass(frozen=True)
class Untied(ByIndex):
    """Cannot be opened where it arrives."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise ModuleNotFoundError("no such method here")


@pytest.mark.parametrize("through", ["executor", "workers"])
def test_what_cannot_be_pickled_is_a_failure_that_says_so(tmp_path, through):
    jobs = dict(enumerate(Comparison([toy.model()], [toy.task()], {"a": Unpicklable()}).jobs()))
    if through == "workers":
        ((index, outcome),) = in_workers(jobs, 2)
        assert index == 0
        assert outcome is not None
        record = outcome.record
    else:
        (record,) = run(tmp_path, {"a": Unpicklable()}, executor=Refusing())
    assert record.status == "failed"
    assert "cannot pickle '_thread.lock' object" in str(record.error)
    assert str(record.error).endswith("Run it with workers=1.")


def test_what_cannot_be_opened_is_a_failure_with_its_traceback(tmp_path):
    results = run(tmp_path, {"a": Untied(), "b": ByIndex()}, executor=Losing())
    assert "ModuleNotFoundError: no such method here" in str(results.records[0].error)


def test_results_of_two_versions_are_not_mixed(monkeypatch):
    (job,) = Comparison([toy.model()], [toy.task()], [ByIndex()], budgets=BUDGETS).jobs()
    outcome = run_job(job)
    assert pickling.outcome_of(job, outcome) is outcome
    monkeypatch.setattr(pickling, "__version__", "99")
    refused = pickling.outcome_of(job, outcome).record
    assert refused.status == "failed"
    assert "this process 99" in str(refused.error)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"workers": 0}, "workers must be 1 or more, got 0"),
        ({"workers": 2, "executor": Refusing()}, "got an executor and workers=2"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, where: Any, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "none", **where)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_through_a_process_pool(tmp_path):
    own = {"mp_context": get_context("spawn"), "initializer": torch.set_num_threads}
    with ProcessPoolExecutor(1, initargs=(torch.get_num_threads(),), **own) as pool:
        there = run(tmp_path / "there", executor=pool)
        with pytest.raises(RuntimeError, match="the executor broke"):
            run(tmp_path / "there", {"dying": Dying()}, executor=pool)
    here = run(tmp_path / "here")
    assert [record.status for record in there] == ["done", "failed", "done"]
    for mine, theirs in zip(there.done, here.done, strict=True):
        assert without_durations(mine) == without_durations(theirs)
        path = here.circuit_path(theirs)
        assert there.circuit_path(mine).read_bytes() == path.read_bytes()
    assert len(Results.load(tmp_path / "there")) == 3, "nothing was written of the job that died"


@pytest.mark.slow
def test_through_a_cluster(tmp_path):
    """Dask rather than ray: its executor is one of `concurrent.futures`, it is pure Python that
    installs wherever torch does, and it starts on laptops, Slurm and Kubernetes alike."""
    distributed = pytest.importorskip(
        "distributed", reason="dask.distributed is not installed: pip install -e '.[test]'"
    )
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", processes=True
    )
    with cluster, distributed.Client(cluster) as client:
        there = run(tmp_path / "there", executor=client.get_executor())
    here = run(tmp_path / "here")
    assert [record.status for record in there] == ["done", "failed", "done"]
    assert "ZeroDivisionError: no circuit today" in str(there.failed[0].error)
    for mine, theirs in zip(there.done, here.done, strict=True):
        assert without_durations(mine) == without_durations(theirs)
        path = here.circuit_path(theirs)
        assert there.circuit_path(mine).read_bytes() == path.read_bytes()
