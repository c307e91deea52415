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

from sparse_lens.evals.harness.executing import Happenings
from sparse_lens.evals.harness.jobs import Job, Outcome, Workbench
from sparse_lens.evals.harness.parcels import Parcel, failure, outcome_of, pack, run_parcel

PATIENCE = 10.0
"""Seconds that a worker without a job has to leave by itself."""


def in_workers(jobs: Mapping[int, Job], n: int) -> Happenings:
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
    parcels, refused = pack(jobs)
    yield from refused.items()
    waiting = list(parcels)
    n = min(n, len(waiting))
    threads = max(1, torch.get_num_threads() // max(1, n))
    crew: list[_Worker] = []
    try:
        for _ in range(n):
            crew.append(_Worker(threads))  # one by one: all are killed if the next does not start
        while crew:
            heard = wait([worker.connection for worker in crew])
            for worker in [worker for worker in crew if worker.connection in heard]:
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError):
                    crew.remove(worker)
                    yield worker.last_words()
                    if waiting:
                        crew.append(_Worker(threads))
                    continue
                if worker.job is not None:
                    yield worker.place, outcome_of(worker.job, answer)
                if waiting:
                    others = [other.job for other in crew if other is not worker and other.job]
                    place = nearest({p: jobs[p] for p in waiting}, worker.job, others)
                    waiting.remove(place)
                    worker.give(place, jobs[place], parcels[place])
                    yield place, None
                else:
                    crew.remove(worker)
                    worker.dismiss()
    finally:
        for worker in crew:
            worker.kill()


class _Worker:
    """A process with a connection; first it says that it is ready, then it answers each job."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.place = -1
        self.job: Job | None = None
        """What it is at, or was last; None while it starts."""

        self._given = 0.0
        self._process = context.Process(target=_serve, args=(theirs, threads))
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the connection

    def give(self, place: int, job: Job, parcel: Parcel) -> None:
        self.place, self.job, self._given = place, job, time.perf_counter()
        with suppress(OSError):  # it has died, which `recv` will tell
            self.connection.send(parcel)

    def last_words(self) -> tuple[int, Outcome]:
        """The job that a dead worker leaves, as a failure."""
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
        seconds = time.perf_counter() - self._given
        return self.place, replace(outcome, record=replace(outcome.record, job_seconds=seconds))

    def dismiss(self) -> None:
        """Let it leave."""
        self.connection.close()
        self._process.join(PATIENCE)
        self._process.kill()
        self._process.join()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def nearest(waiting: Mapping[int, Job], last: Job | None, others: Sequence[Job]) -> int:
    """The place of the job that a worker should take next.

    One of the model and task that it has loaded, else of the model, else of a model that nobody
    works on, else any; the first of these.

    Args:
        last: the worker's last job; None where it has just started.
        others: what the other workers are at.
    """

    def distance(place: int) -> tuple[bool, bool, bool]:
        model, task = waiting[place].model.label, waiting[place].task.name
        if last is not None and last.model.label == model:
            return False, False, last.task.name != task
        return True, any(other.model.label == model for other in others), True

    return min(waiting, key=distance)


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    names = {one.value: f" ({one.name})" for one in signal.Signals}  # real-time ones have none
    return f"was killed by signal {-code}{names.get(-code, '')}"


def _serve(connection: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    bench = Workbench()
    connection.send(None)
    with suppress(EOFError, OSError):  # dismissed
        while True:
            connection.send(run_parcel(connection.recv(), bench))


def _end_with_parent() -> None:
    """A process that was killed cannot end its workers, which would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
