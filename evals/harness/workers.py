"""Processes on this machine that share out the jobs of a comparison."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait

import torch

from sparse_lens.evals.harness.executing import JobEvents
from sparse_lens.evals.harness.jobs import Job, LoadedInputs, Outcome
from sparse_lens.evals.harness.pickling import (
    PickledJob,
    failure,
    outcome_of,
    pickle_jobs,
    run_pickled,
)

SECONDS_TO_STOP = 10.0
"""That a worker without a job has to end by itself."""


def in_workers(jobs: Mapping[int, Job], n: int) -> JobEvents:
    """Run jobs in `n` processes, started afresh (spawned).

    A worker runs one job at a time; its next is one of the model and the task that it has loaded,
    if there is one. A worker that dies (out of memory, a crash in compiled code) is the failure of
    the job that it was running, and a new one takes its place. All are killed when the iterator is
    closed before its end, and end by themselves when this process is killed.

    Each has its share, and at least one, of the threads that torch uses here:
    `torch.get_num_threads()`, which follows OMP_NUM_THREADS.

    Raises:
        RuntimeError: when a worker does not even start.
    """
    pickled, refused = pickle_jobs(jobs)
    yield from refused.items()
    waiting = list(pickled)
    n = min(n, len(waiting))
    threads = max(1, torch.get_num_threads() // max(1, n))
    workers: list[_Worker] = []
    try:
        for _ in range(n):  # one by one: all are killed if the next does not start
            workers.append(_Worker(threads))
        while workers:
            ready = wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    yield worker.job_index, worker.failure_of_its_job()
                    if waiting:
                        workers.append(_Worker(threads))
                    continue
                if worker.job is not None:
                    yield worker.job_index, outcome_of(worker.job, answer)
                if waiting:
                    running = [w.job for w in workers if w is not worker and w.job is not None]
                    index = next_job({i: jobs[i] for i in waiting}, worker.job, running)
                    waiting.remove(index)
                    worker.send(index, jobs[index], pickled[index])
                    yield index, None
                else:
                    workers.remove(worker)
                    worker.stop()
    finally:
        for worker in workers:
            worker.kill()


class _Worker:
    """A process with a connection; first it says that it is ready, then it answers each job."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, its_end = context.Pipe()
        self.job_index = -1
        self.job: Job | None = None
        """What it runs, or ran last; None while it starts."""

        self._sent_at = 0.0
        self._process = context.Process(target=_serve, args=(its_end, threads))
        self._process.start()
        its_end.close()  # so that the end of the process is the end of the connection

    def send(self, job_index: int, job: Job, pickled: PickledJob) -> None:
        self.job_index, self.job, self._sent_at = job_index, job, time.perf_counter()
        with suppress(OSError):  # it has died, which the next `recv` raises
            self.connection.send(pickled)

    def failure_of_its_job(self) -> Outcome:
        """The outcome of the job that a worker was running when it died."""
        self._process.join()
        how = _how_it_ended(self._process.exitcode)
        if self.job is None:
            raise RuntimeError(
                f"a worker process {how} before it took a job. A script that calls compare with "
                "workers must do so under `if __name__ == '__main__':`, because every worker "
                "imports the script."
            )
        outcome = failure(
            self.job,
            f"the worker process {how} while it ran this job. Where memory ran out, run with "
            "fewer workers.",
        )
        seconds = time.perf_counter() - self._sent_at
        return replace(outcome, record=replace(outcome.record, job_seconds=seconds))

    def stop(self) -> None:
        """Let it end by itself."""
        self.connection.close()
        self._process.join(SECONDS_TO_STOP)
        self._process.kill()
        self._process.join()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def next_job(waiting: Mapping[int, Job], last: Job | None, running: Sequence[Job]) -> int:
    """The index of the job that a worker should take next.

    One of the model and task that it has loaded, else of the model, else of a model that no worker
    runs, else any; the first of these.

    Args:
        last: the worker's last job; None where it has just started.
        running: jobs of the other workers.
    """

    def distance(index: int) -> tuple[bool, bool, bool]:
        model, task = waiting[index].model.label, waiting[index].task.name
        if last is not None and last.model.label == model:
            return False, False, last.task.name != task
        return True, any(job.model.label == model for job in running), True

    return min(waiting, key=distance)


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    names = {
        known.value: f" ({known.name})" for known in signal.Signals
    }  # real-time ones have none
    return f"was killed by signal {-code}{names.get(-code, '')}"


def _serve(connection: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    inputs = LoadedInputs()
    connection.send(None)
    with suppress(EOFError, OSError):  # stopped
        while True:
            connection.send(run_pickled(connection.recv(), inputs))


def _end_with_parent() -> None:
    """A process that was killed cannot end its workers, which would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
