"""A job on its way to another process, and its outcome on the way back."""

from __future__ import annotations

import pickle
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import cloudpickle

from sparse_lens._version import __version__
from sparse_lens.evals.harness.jobs import Job, LoadedInputs, Outcome, run_job


@dataclass(frozen=True, eq=False)
class PickledJob:
    """A job as bytes.

    Bytes rather than the job itself, because torch would put the tensors of a pickled model into
    memory that all processes share: a method that changes weights would change everybody's. In
    bytes each process, and each thread, has its own copy.
    """

    model: bytes
    """The same object in all pickled jobs of a model."""

    other_fields: bytes
    id: str

    def job(self) -> Job:
        """The job."""
        job = Job(model=pickle.loads(self.model), **pickle.loads(self.other_fields))
        # As it was sent: a class that was defined inside a function arrives under a shorter name.
        job.__dict__["id"] = self.id
        return job


def pickle_jobs(jobs: Mapping[int, Job]) -> tuple[dict[int, PickledJob], dict[int, Outcome]]:
    """Jobs by their indices as bytes, each model pickled once; failures where that cannot be."""
    models: dict[str, bytes] = {}
    pickled, refused = {}, {}
    for job_index, job in jobs.items():
        others = {f.name: getattr(job, f.name) for f in fields(job) if f.name != "model"}
        label = job.model.label
        try:
            if label not in models:
                models[label] = _dumps(job.model)
            pickled[job_index] = PickledJob(models[label], _dumps(others), job.id)
        except Exception:  # pickling calls anyone's code, which fails in many ways
            error = traceback.format_exc()
            refused[job_index] = failure(
                job,
                f"{error}This job cannot be sent to another process, because something in its "
                "model, task, method, ablation, questions or graph cannot be pickled. Run it with "
                "workers=1.",
            )
    return pickled, refused


def run_pickled(pickled: PickledJob, inputs: LoadedInputs) -> Outcome | str:
    """Unpickle a job and run it; the traceback where it cannot even be unpickled."""
    try:
        job = pickled.job()
    except Exception:  # what is missing here may be anything
        return traceback.format_exc()
    return run_job(job, inputs)


def outcome_of(job: Job, answer: Outcome | str) -> Outcome:
    """What `run_pickled` gave back, as the outcome of the job that was sent."""
    if isinstance(answer, str):
        return failure(job, answer)
    worker_version = answer.record.versions["sparse-lens"]
    if worker_version != __version__:
        return failure(
            job,
            f"the worker has sparse-lens {worker_version}, and this process "
            f"{__version__}: results of two versions do not compare. Install the same "
            "on all machines.",
        )
    return answer


def failure(job: Job, error: str) -> Outcome:
    """The outcome of a job that did not run to its end."""
    return Outcome(replace(job.blank(), error=error))


def _dumps(value: object) -> bytes:
    """Pickle; by value, with cloudpickle, what no other process can import: lambdas, and classes of
    a notebook."""
    try:
        plain = pickle.dumps(value)
    except Exception:  # whatever the value's own code raises
        return cloudpickle.dumps(value)
    return cloudpickle.dumps(value) if b"__main__" in plain else plain


_of_this_thread = threading.local()


def run_pickled_in_executor(pickled: PickledJob) -> Outcome | str:
    """`run_pickled` for the workers of executors, which this package does not start.

    The loaded inputs stay with the thread, so that its next job finds the model loaded. Each thread
    has its own: two jobs at a time must not hook into one model.
    """
    if not hasattr(_of_this_thread, "inputs"):
        _of_this_thread.inputs = LoadedInputs()
    return run_pickled(pickled, _of_this_thread.inputs)
