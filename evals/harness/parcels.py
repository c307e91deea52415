"""A job on its way to another process, and its outcome on the way back."""

from __future__ import annotations

import pickle
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import cloudpickle

from sparse_lens._version import __version__
from sparse_lens.evals.harness.jobs import Job, Outcome, Workbench, run_job


@dataclass(frozen=True, eq=False)
class Parcel:
    """A pickled job.

    Bytes rather than the job itself, because torch would put the tensors of a pickled model into
    memory that all processes share: a method that changes weights would change everybody's. In
    bytes each process, and each thread, has its own copy.
    """

    model: bytes
    """The same object in all parcels of a model."""

    rest: bytes
    id: str

    def open(self) -> Job:
        """The job."""
        job = Job(model=pickle.loads(self.model), **pickle.loads(self.rest))
        # As it was sent: a class that was defined inside a function arrives under a shorter name.
        job.__dict__["id"] = self.id
        return job


def pack(jobs: Mapping[int, Job]) -> tuple[dict[int, Parcel], dict[int, Outcome]]:
    """Parcels of jobs by their places, each model pickled once; failures where that cannot be."""
    models: dict[str, bytes] = {}
    parcels, refused = {}, {}
    for place, job in jobs.items():
        rest = {f.name: getattr(job, f.name) for f in fields(job) if f.name != "model"}
        label = job.model.label
        try:
            if label not in models:
                models[label] = _dumps(job.model)
            parcels[place] = Parcel(models[label], _dumps(rest), job.id)
        except Exception:  # pickling calls anyone's code, which fails in many ways
            error = traceback.format_exc()
            refused[place] = failure(
                job,
                f"{error}This job cannot be sent to another process, because something in its "
                "model, task, method, ablation or graph cannot be pickled. Run it with workers=1.",
            )
    return parcels, refused


def run_parcel(parcel: Parcel, bench: Workbench) -> Outcome | str:
    """Open a parcel and run its job; the traceback where it cannot even be opened."""
    try:
        job = parcel.open()
    except Exception:  # what is missing here may be anything
        return traceback.format_exc()
    return run_job(job, bench)


def outcome_of(job: Job, answer: Outcome | str) -> Outcome:
    """What `run_parcel` gave back, as the outcome of the job that was sent."""
    if isinstance(answer, str):
        return failure(job, answer)
    theirs = answer.record.versions["sparse-lens"]
    if theirs != __version__:
        return failure(
            job,
            f"the worker has sparse-lens {theirs}, and this process {__version__}: "
            "results of two versions do not compare. Install the same on all machines.",
        )
    return answer


def failure(job: Job, error: str) -> Outcome:
    """The outcome of a job that did not come to its own."""
    return Outcome(replace(job.blank(), error=error))


def _dumps(value: object) -> bytes:
    """Pickle; with cloudpickle what has to be taken along: lambdas, and a notebook's classes."""
    try:
        plain = pickle.dumps(value)
    except Exception:  # whatever the value's own code raises
        return cloudpickle.dumps(value)
    return cloudpickle.dumps(value) if b"__main__" in plain else plain


_here = threading.local()


def run_on_own_bench(parcel: Parcel) -> Outcome | str:
    """`run_parcel` for executors, whose workers are nobody's to set up.

    Its workbench stays with the thread, so that the worker's next job finds the model loaded. Each
    thread has its own: two jobs at a time must not hook into one model.
    """
    if not hasattr(_here, "bench"):
        _here.bench = Workbench()
    return run_parcel(parcel, _here.bench)
