"""Where the jobs of a comparison run: in this process, or through an executor."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import BrokenExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias, runtime_checkable

from sparse_lens.evals.harness.jobs import Job, LoadedInputs, Outcome, run_job
from sparse_lens.evals.harness.pickling import (
    failure,
    outcome_of,
    pickle_jobs,
    run_pickled_in_executor,
)

JobEvents: TypeAlias = Generator[tuple[int, Outcome | None], None, None]
"""A job's index in the comparison with its outcome as it ends, or with None as it begins."""


@runtime_checkable
class SubmittedJob(Protocol):
    """What is asked of an executor's futures; one with `cancel` is cancelled on interruption."""

    def result(self) -> Any:
        """What the call returned; raises what it raised."""
        ...

    def add_done_callback(self, fn: Callable[[Any], object], /) -> Any:
        """Call `fn` with this future when it is done, or at once if it is."""
        ...


@runtime_checkable
class JobExecutor(Protocol):
    """What is asked of an executor: of one of `concurrent.futures`, dask.distributed, mpi4py."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> SubmittedJob:
        """Call `fn` elsewhere."""
        ...


def in_this_process(jobs: Mapping[int, Job]) -> JobEvents:
    """Run jobs one after the other."""
    inputs = LoadedInputs()
    for job_index, job in jobs.items():
        yield job_index, None
        yield job_index, run_job(job, inputs)


def on_executor(jobs: Mapping[int, Job], executor: JobExecutor) -> JobEvents:
    """Submit all jobs, in their order, and yield outcomes as they end; beginnings are not known.

    What goes wrong with a single job (it cannot be pickled, its worker was lost) is its failure.
    When the iterator is closed before its end, jobs that have not begun are cancelled.

    Raises:
        RuntimeError: when the executor itself breaks, as a process pool does when one of its
            processes dies. No job is blamed, because the pool does not say which it was.
    """
    ended: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    futures: list[SubmittedJob] = []
    broken: BrokenExecutor | None = None
    try:
        pickled, refused = pickle_jobs(jobs)
        yield from refused.items()
        for job_index, job in pickled.items():
            try:
                future = executor.submit(run_pickled_in_executor, job)
            except BrokenExecutor as error:
                broken = error
                break
            futures.append(future)
            future.add_done_callback(partial(_note_end, ended, job_index))
        for _ in range(len(futures)):
            job_index, future = ended.get()
            try:
                outcome = outcome_of(jobs[job_index], future.result())
            except BrokenExecutor as error:
                broken = error
                continue
            except Exception:  # whatever an engine raises for a job that it lost
                outcome = failure(jobs[job_index], traceback.format_exc())
            yield job_index, outcome
        if broken is not None:
            raise RuntimeError(
                f"the executor broke ({broken}), so that not all jobs have run. Those that ended "
                "are kept: run the comparison again with a new executor to go on, or with "
                "workers=N, which survives the death of a worker and records whose it was."
            ) from broken
    finally:
        for future in futures:
            cancel = getattr(future, "cancel", None)
            if cancel is not None:
                cancel()


def _note_end(ended: SimpleQueue[tuple[int, Any]], job_index: int, future: Any) -> None:
    ended.put((job_index, future))
