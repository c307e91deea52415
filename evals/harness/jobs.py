"""One job of a comparison: find a circuit, and measure it on prompts that it was not found on."""

from __future__ import annotations

import dataclasses
import tempfile
import time
import traceback
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from sparse_lens._version import __version__
from sparse_lens.ablation import Ablation
from sparse_lens.circuit import Circuit
from sparse_lens.dataclass_json import class_path
from sparse_lens.discovery import Discovery
from sparse_lens.evals.budgets import EdgeBudgets
from sparse_lens.evals.harness.measuring import measurements_of
from sparse_lens.evals.harness.profiling import profiles_of
from sparse_lens.evals.harness.sources import ModelSource, TaskSource
from sparse_lens.evals.metrics import compare_logits, model_logits
from sparse_lens.evals.questions import Questions
from sparse_lens.evals.records import Record
from sparse_lens.identity import describe, describe_fields, json_hash, task_hash
from sparse_lens.method import Method
from sparse_lens.patching import BoundAblation, bind
from sparse_lens.plotting.network import Network
from sparse_lens.search import ChosenCircuit, choose_circuit
from sparse_lens.task import Task
from sparse_lens.versions import hardware, installed_versions


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that one row of a comparison depends on; can be pickled."""

    model: ModelSource
    task: TaskSource
    label: str
    """The method's, unique in the comparison."""

    method: Method
    ablation: Ablation
    seed: int
    target_loss: float
    budgets: EdgeBudgets
    random_draws: int
    questions: Questions = field(default_factory=Questions)

    @cached_property
    def id(self) -> str:
        """Hash of all that the numbers depend on."""
        # Without questions it is what it was before there were any: such records still count.
        asked = {"questions": self.questions.identity} if self.questions.any else {}
        return json_hash(
            {
                **asked,
                "model": [self.model.label, self.model.hash],
                "graph": self.model.graph_fingerprint,
                "task": self.task.identity(self.model.tokenizer_hash),
                "method": [self.label, class_path(type(self.method)), describe_fields(self.method)],
                "ablation": describe(self.ablation),
                "seed": self.seed,
                "target_loss": self.target_loss,
                "budgets": describe(self.budgets),
                "random_draws": self.random_draws,
                "sparse_lens": __version__,
            }
        )

    def blank(self) -> Record:
        """What is known before it has run, as the record of a failure."""
        model = self.model
        return Record(
            job_id=self.id,
            status="failed",
            model=model.label,
            model_hash=model.hash,
            nonzero_fraction=model.nonzero_fraction,
            n_parameters=model.n_parameters,
            pretraining_loss=model.pretraining_loss,
            task=self.task.name,
            task_seed=self.task.seed if self.task.task is None else None,
            method=self.label,
            method_class=class_path(type(self.method)),
            hyperparameters=describe_fields(self.method),
            graph=model.graph_kind,
            graph_fingerprint=model.graph_fingerprint,
            graph_nodes=model.graph_nodes,
            graph_edges=model.graph_edges,
            ablation=describe(self.ablation),
            seed=self.seed,
            target_loss=self.target_loss,
            questions=describe_fields(self.questions),
            budgets=describe(self.budgets),
            random_draws=self.random_draws,
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


class Workbench:
    """Keeps what neighbouring jobs share: the model with its ablation, and the task."""

    def __init__(self) -> None:
        self._bound: tuple[str, BoundAblation] | None = None
        self._task: tuple[str, Task] | None = None

    def bound(self, job: Job) -> BoundAblation:
        """The job's ablation, bound to its model."""
        key = json_hash([job.model.hash, job.model.graph_fingerprint, describe(job.ablation)])
        if self._bound is None or self._bound[0] != key:
            self._bound = self._task = None  # let go of the last model before loading the next
            model = job.model.load()
            self._bound = key, bind(model, job.model.graph_of(model), job.ablation)
        return self._bound[1]

    def task(self, job: Job) -> Task:
        """The job's task, in its model's tokens."""
        key = json_hash([job.model.hash, job.task.identity(job.model.tokenizer_hash)])
        if self._task is None or self._task[0] != key:
            self._task = key, job.task.load(self.bound(job).model)
        return self._task[1]


def run_job(job: Job, bench: Workbench | None = None) -> Outcome:
    """Find a circuit and measure it; a failure is an outcome, too.

    Args:
        bench: shares models and tasks with other jobs of the same process.
    """
    started = time.perf_counter()
    try:
        outcome = _run(job, bench or Workbench())
    except (Exception, SystemExit):  # a method may be anyone's, and the other jobs must go on
        outcome = Outcome(replace(job.blank(), error=traceback.format_exc()))
    seconds = time.perf_counter() - started
    record = replace(outcome.record, job_seconds=seconds, threads=torch.get_num_threads())
    return replace(outcome, record=record)


def _run(job: Job, bench: Workbench) -> Outcome:
    bound, task = bench.bound(job), bench.task(job)
    discovery = job.method.discover(bound.model, bound.graph, task, ablation=bound, seed=job.seed)
    chosen = _chosen(job, bound, task, discovery)
    measurements = measurements_of(
        bound,
        task.split("held_out"),
        discovery,
        chosen.circuit,
        budgets=job.budgets.of(bound.graph),
        random_draws=job.random_draws,
        questions=job.questions if chosen.met_target else Questions.none(),
        seed=job.seed,
    )
    validation = task.split("validation").to(bound.device)
    logits = model_logits(bound.model, validation)
    full = compare_logits(logits, logits, validation).means()
    record = replace(
        job.blank(),
        status="done",
        task_hash=task_hash(task),
        n_train=len(task.train),
        n_validation=len(validation),
        n_held_out=len(task.split("held_out")),
        full_validation_loss=full["task_loss"],
        full_validation_accuracy=full["accuracy"],
        met_on_validation=chosen.met_target,
        validation_loss=chosen.loss,
        met_on_held_out=measurements[0].task_loss <= job.target_loss,
        circuit=f"circuits/{job.id}.safetensors",
        circuit_given_by="nodes" if chosen.circuit.is_node_circuit else "edges",
        search=chosen.tried,
        seconds=discovery.cost.seconds,
        forward_passes=discovery.cost.forward_passes,
        backward_passes=discovery.cost.backward_passes,
        peak_memory=discovery.cost.peak_memory,
        device=str(bound.device),
        hardware=hardware(bound.device),
        measurements=measurements,
    )
    drawing = None
    if chosen.met_target:
        profiles = profiles_of(bound, chosen.circuit, validation, bound.model.tokenizer)
        network = Network.of(
            chosen.circuit, bound.model, scores=discovery.scores, profiles=profiles
        )
        drawing = network.to_json().encode()
    return Outcome(record, _file_content(chosen.circuit), drawing)


def _chosen(job: Job, bound: BoundAblation, task: Task, discovery: Discovery) -> ChosenCircuit:
    """What the method chose; searched for here if it knows no target."""
    if discovery.chosen is not None and takes_target(job.method):
        return discovery.chosen
    return choose_circuit(bound, discovery.scores, task, target_loss=job.target_loss)


def takes_target(method: Method) -> bool:
    """Whether a method has a field for the loss that its chosen circuit must meet."""
    return any(f.name == "target_loss" for f in dataclasses.fields(method))


def _file_content(circuit: Circuit) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "circuit.safetensors"
        circuit.save(path)
        return path.read_bytes()
