"""One job of a comparison: find a circuit, and measure it on prompts that it was not found on."""

from __future__ import annotations

import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from sparse_lens._version import __version__
from sparse_lens.choosing import choose
from sparse_lens.circuit import Circuit
from sparse_lens.dataclass_json import class_path
from sparse_lens.evals.harness.asking import answers_of
from sparse_lens.evals.harness.measuring import Meter, measurements_of
from sparse_lens.evals.harness.profiling import profiles_of
from sparse_lens.evals.harness.settings import JobSettings
from sparse_lens.evals.harness.sources import ModelSource, TaskSource
from sparse_lens.evals.metrics import compare_logits, model_logits
from sparse_lens.evals.question import Subject
from sparse_lens.evals.records import Control, Record
from sparse_lens.identity import describe, describe_fields, json_hash, task_hash
from sparse_lens.method import Method
from sparse_lens.patching import BoundAblation, bind
from sparse_lens.plotting.network import Network
from sparse_lens.target import PAPER, Target
from sparse_lens.task import Prompts, Task
from sparse_lens.versions import hardware, installed_versions


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that one row of a comparison depends on; can be pickled."""

    settings: JobSettings
    model: ModelSource
    task: TaskSource
    label: str
    """The method's, unique in the comparison."""

    method: Method
    seed: int

    @property
    def target(self) -> Target:
        """What the chosen circuit must meet: the comparison's target, or else the method's own."""
        return self.settings.target or getattr(self.method, "target", None) or PAPER

    @cached_property
    def id(self) -> str:
        """Hash of all that the numbers depend on."""
        return json_hash(
            {
                "model": [self.model.label, self.model.hash],
                "graph": self.model.graph_fingerprint,
                "task": self.task.identity(self.model.tokenizer_hash),
                "method": [self.label, class_path(type(self.method)), describe_fields(self.method)],
                "seed": self.seed,
                "settings": describe_fields(self.settings),
                "sparse_lens": __version__,
            }
        )

    @property
    def control(self) -> Control | None:
        """What there is nothing to find in, if this job is a control."""
        if self.model.is_random:
            return "model"
        return "task" if self.task.is_control else None

    def blank(self) -> Record:
        """What is known before it has run, as the record of a failure."""
        model, settings = self.model, self.settings
        return Record(
            job_id=self.id,
            status="failed",
            model=model.label,
            model_hash=model.hash,
            nonzero_fraction=model.nonzero_fraction,
            n_parameters=model.n_parameters,
            pretraining_loss=model.pretraining_loss,
            training_hash=model.training_hash,
            task=self.task.name,
            task_seed=self.task.seed if self.task.task is None else None,
            method=self.label,
            method_class=class_path(type(self.method)),
            hyperparameters=describe_fields(self.method),
            graph=model.graph_kind,
            graph_fingerprint=model.graph_fingerprint,
            graph_nodes=model.graph_nodes,
            graph_edges=model.graph_edges,
            ablation=describe(settings.ablation),
            seed=self.seed,
            deterministic=self.method.is_deterministic,
            target_loss=self.target.task_loss,
            target=str(self.target),
            control=self.control,
            questions=describe(settings.named_questions),
            budgets=describe(settings.budgets),
            random_draws=settings.random_draws,
            tokenizer_hash=model.tokenizer_hash,
            dtype=model.dtype,
            versions=installed_versions(),
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a job gives back: its record, and the content of the files beside it."""

    record: Record

    circuit: bytes | None = None
    """As `Circuit.save` writes it; None where the job failed."""

    drawing: bytes | None = None
    """As `Network.to_json` writes it; None where no circuit met the target: what counts then is the
    full graph, of which there is nothing to see."""


class LoadedInputs:
    """Keeps what consecutive jobs share: the model with its ablation bound, and the task."""

    def __init__(self) -> None:
        self._bound: tuple[str, BoundAblation] | None = None
        self._task: tuple[str, Task] | None = None

    def bound(self, job: Job) -> BoundAblation:
        """The job's ablation, bound to its model."""
        ablation = job.settings.ablation
        model = job.model
        key = json_hash([model.hash, model.device, model.graph_fingerprint, describe(ablation)])
        if self._bound is None or self._bound[0] != key:
            self._bound = self._task = None  # free the last model before loading the next
            loaded = model.load()
            self._bound = key, bind(loaded, model.graph_of(loaded), ablation)
        return self._bound[1]

    def task(self, job: Job) -> Task:
        """The job's task, in its model's tokens."""
        key = json_hash([job.model.hash, job.task.identity(job.model.tokenizer_hash)])
        if self._task is None or self._task[0] != key:
            self._task = key, job.task.load(self.bound(job).model)
        return self._task[1]


def run_job(job: Job, inputs: LoadedInputs | None = None) -> Outcome:
    """Find a circuit and measure it; a failure is an outcome, too.

    Args:
        inputs: shares models and tasks with other jobs of the same process.
    """
    started = time.perf_counter()
    try:
        outcome = _run(job, inputs or LoadedInputs())
    except (Exception, SystemExit):  # a method may be anyone's, and the other jobs must go on
        outcome = Outcome(replace(job.blank(), error=traceback.format_exc()))
    seconds = time.perf_counter() - started
    record = replace(outcome.record, job_seconds=seconds, threads=torch.get_num_threads())
    return replace(outcome, record=record)


def _run(job: Job, inputs: LoadedInputs) -> Outcome:
    settings, bound, task = job.settings, inputs.bound(job), inputs.task(job)
    discovery = job.method.discover(bound.model, bound.graph, task, ablation=bound, seed=job.seed)
    chosen = choose(discovery, bound, task, target=job.target)
    meter = Meter(bound, task.split("held_out"))
    measurements = measurements_of(
        meter,
        discovery,
        chosen.circuit,
        budgets=settings.budgets.of(bound.graph),
        random_draws=settings.random_draws,
        seed=job.seed,
    )
    record = replace(
        job.blank(),
        status="done",
        task_hash=task_hash(task),
        n_train=len(task.train),
        n_validation=len(task.split("validation")),
        n_held_out=len(task.split("held_out")),
        met_on_validation=chosen.met_target,
        validation_loss=chosen.loss,
        met_on_held_out=job.target.bind(bound, meter.prompts).met(chosen.circuit),
        circuit=f"circuits/{job.id}.safetensors",
        circuit_given_by="nodes" if chosen.circuit.is_node_circuit else "edges",
        search=chosen.tried,
        **asdict(discovery.cost),
        device=str(bound.device),
        hardware=hardware(bound.device),
        measurements=measurements,
    )
    validation = task.split("validation").to(bound.device)
    record = _with_full_model(record, bound, validation)
    drawing = None
    if chosen.met_target:
        record = _with_answers(record, job, meter, task, chosen.circuit)
        profiles = profiles_of(bound, chosen.circuit, validation, bound.model.tokenizer)
        network = Network.of(
            chosen.circuit, bound.model, scores=discovery.scores, profiles=profiles
        )
        drawing = network.to_json().encode()
    return Outcome(record, _file_content(chosen.circuit), drawing)


def _with_full_model(record: Record, bound: BoundAblation, validation: Prompts) -> Record:
    """Add the full model's validation loss and accuracy, which say whether it can do the task."""
    logits = model_logits(bound.model, validation)
    means = compare_logits(logits, logits, validation).means()
    return replace(
        record,
        full_validation_loss=means["task_loss"],
        full_validation_accuracy=means["accuracy"],
    )


def _with_answers(record: Record, job: Job, meter: Meter, task: Task, circuit: Circuit) -> Record:
    """Add the answers to the questions about a circuit that met the target."""
    questions = job.settings.named_questions
    subject = Subject(
        bound=meter.bound,
        circuit=circuit,
        prompts=meter.prompts,
        full_logits=meter.full_logits,
        metrics=meter.metrics(circuit),
        measured=meter.metrics,
        task=task,
        method=job.method,
        target=job.target,
        seed=job.seed,
    )
    answers, errors = answers_of(subject, questions)
    columns = {name: question.columns for name, question in questions.items()}
    return replace(record, answers=answers, columns=columns, question_errors=errors)


def _file_content(circuit: Circuit) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "circuit.safetensors"
        circuit.save(path)
        return path.read_bytes()
