"""The jobs of a comparison run, and each leaves its record in a folder as it ends."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from sparse_lens.atomic import write_atomically
from sparse_lens.evals.harness.executing import (
    JobEvents,
    JobExecutor,
    in_this_process,
    on_executor,
)
from sparse_lens.evals.harness.jobs import Job, Outcome
from sparse_lens.evals.harness.workers import in_workers
from sparse_lens.evals.records import Record
from sparse_lens.evals.results import Results, ResultsWriter, drawing_path


@dataclass(frozen=True)
class Progress:
    """How far a comparison is; reported as a job begins and as it ends."""

    number: int
    """Of this job in the comparison, from 1; jobs may end in any order."""

    total: int
    model: str
    task: str
    method: str
    seed: int

    remaining: Mapping[str, int]
    """How many jobs of each method have not ended."""

    record: Record | None
    """None where the job begins."""

    resumed: bool = False
    """Whether the record is that of an earlier run."""


def run_jobs(
    jobs: Sequence[Job],
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    executor: JobExecutor | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Results:
    """Run what no earlier run has finished in this folder; see `Comparison.run`."""
    remaining = Counter(job.label for job in jobs)
    records: dict[int, Record] = {}

    def report(index: int, record: Record | None, *, resumed: bool = False) -> None:
        job = jobs[index]
        if record is not None:
            records[index] = record
            remaining[job.label] -= 1
        if progress is not None:
            names = (job.model.label, job.task.name, job.label, job.seed)
            progress(Progress(index + 1, len(jobs), *names, dict(remaining), record, resumed))

    with ResultsWriter(out) as writer:
        for index, job in enumerate(jobs):
            finished = writer.finished(job.id, order=index)
            if finished is not None:
                report(index, finished, resumed=True)
        unfinished = {index: job for index, job in enumerate(jobs) if index not in records}
        with closing(_start(unfinished, workers, executor)) as events:
            for index, outcome in events:
                report(index, None if outcome is None else keep(outcome, writer, order=index))
    return Results(tuple(records[index] for index in range(len(jobs))), Path(out))


def keep(outcome: Outcome, writer: ResultsWriter, *, order: int) -> Record:
    """Save an outcome: its files first, so that a record never names one that is missing.

    Args:
        order: the job's index in the comparison.
    """
    if outcome.record.circuit is not None and outcome.circuit is not None:
        circuit = writer.folder / outcome.record.circuit
        write_atomically(circuit, outcome.circuit)
        if outcome.drawing is not None:
            write_atomically(drawing_path(circuit), outcome.drawing)
    record = replace(outcome.record, order=order)
    writer.append(record)
    return record


def check_workers(workers: int, executor: JobExecutor | None) -> None:
    """Refuse what cannot run jobs.

    Raises:
        ValueError: for no workers, workers beside an executor, or an executor without `submit`.
    """
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}.")
    if executor is None:
        return
    if workers != 1:
        raise ValueError(
            f"got an executor and workers={workers}: an executor has its own; pass one of them."
        )
    if not isinstance(executor, JobExecutor):
        raise ValueError(
            f"an executor has submit(function, *arguments) as in concurrent.futures, got "
            f"{executor!r}."
        )


def _start(jobs: Mapping[int, Job], workers: int, executor: JobExecutor | None) -> JobEvents:
    if executor is not None:
        return on_executor(jobs, executor)
    return in_this_process(jobs) if workers == 1 else in_workers(jobs, workers)
