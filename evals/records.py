"""What one job of a comparison leaves behind: a record, one JSON line in `results.jsonl`.

A record holds everything that its numbers depend on, a list of measurements, each of one circuit on
the held-out prompts (the chosen circuit, the controls beside it, which are the full model, the
empty circuit and random circuits of the same size, and the curve over edge budgets), and the
answers to the questions about the chosen circuit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from sparse_lens.evals.question import Column

MeasurementKind = Literal["chosen", "full", "empty", "random", "budget"]

Control = Literal["task", "model"]
"""What there is nothing to find in: a task without a rule, or a model of random weights."""


@dataclass(frozen=True)
class Measurement:
    """One circuit on the held-out prompts: its sizes, and means over the prompts.

    The fields that start with `necessity_` are of the complement: the circuit ablated and the rest
    kept. A circuit that is necessary has a high `necessity_task_loss`.
    """

    kind: MeasurementKind
    """`chosen`: the smallest circuit that meets the target on validation (the full circuit when
    none does). `full`: the model itself. `empty`: everything ablated. `random`: as many random
    nodes or edges as the chosen circuit has. `budget`: the method's best circuit of a size."""

    n_nodes: int
    """Kept nodes."""

    n_edges: int
    """Kept edges; those between the kept nodes for a circuit given by nodes."""

    connected_nodes: int
    """Kept nodes on a path from the input to the output."""

    connected_edges: int

    kl: float
    """KL(full model || circuit) in nats, over the whole vocabulary."""

    task_loss: float
    """Cross-entropy in nats of the answer against the distractor."""

    logit_difference: float
    """Logit of the answer minus that of the distractor."""

    accuracy: float
    """Share of prompts whose answer has the larger logit of the two; a tie is half right."""

    exact_match: float
    """Share of prompts whose most likely token of the whole vocabulary is the full model's."""

    necessity_kl: float
    necessity_task_loss: float
    necessity_logit_difference: float
    necessity_accuracy: float
    necessity_exact_match: float

    requested_nodes: int | None = None
    """Nodes asked for (`chosen` and `random` circuits of a node ranking)."""

    requested_edges: int | None = None
    """Edges asked for (`budget`, and what an edge ranking gives)."""

    weights_inside: int | None = None
    """Nonzero weights that a component circuit holds (see `ComponentWeights`), to set beside the
    edges of a channel circuit. None there, where edges are weights, and for a model that has no
    channel graph."""

    draw: int | None = None
    """Which of the random circuits, from 0."""


@dataclass(frozen=True)
class Record:
    """One job: a model, a task, a method and a seed, with all that came of it.

    Where `status` is `failed`, `error` says why and what was not reached has its default.
    """

    job_id: str
    """Hash of all that the job depends on."""

    status: Literal["done", "failed"]

    model: str
    """Name, or the last part of its path; unique in a comparison."""

    model_hash: str
    """Of weights, configuration and reference tokens."""

    nonzero_fraction: float
    """Nonzero entries of the model's weight matrices over all entries; 1 for a dense model."""

    n_parameters: int

    task: str
    task_seed: int | None
    """Of the prompts; None where a task was passed as an object."""

    method: str
    """Label, unique in a comparison."""

    method_class: str
    hyperparameters: Mapping[str, Any]
    """Every field of the method."""

    graph: str
    """`channel` or `component`."""

    graph_fingerprint: str
    graph_nodes: int
    graph_edges: int

    ablation: Mapping[str, Any]
    """Class name under `type`, and every field; tensors as their hashes."""

    seed: int
    target_loss: float | None
    """Two-way task loss, in nats a prompt, that the target asks for; None where it does not."""

    target: str = ""
    """In words. Empty in results of versions that knew no other target than a task loss."""

    questions: Mapping[str, Any] = field(default_factory=dict)
    """Class name under `type`, and every field, of each question by its name. They are asked where
    the target was met."""

    deterministic: bool = False
    """Whether the method has no randomness: this job alone then stands for all seeds of the
    comparison, and `seed` is that of the random controls."""

    control: Control | None = None
    """Why there is no circuit to find, so that one that is found speaks against the method, and
    counts in no mean; None where there may be one."""

    order: int = 0
    """Of the job in the comparison that wrote it, from 0, whenever the job ended."""

    budgets: Mapping[str, Any] = field(default_factory=dict)
    """Shares and numbers of edges of the curve; see `EdgeBudgets`."""

    random_draws: int = 0
    """Random circuits of the chosen one's size."""

    tokenizer_hash: str | None = None
    """Of what the model's tokenizer makes of text; None where it has none."""

    dtype: str = ""
    """Of the model's weights."""

    pretraining_loss: float | None = None
    """Of the model, in nats a token on held-out pretraining text; None where unknown."""

    training_hash: str | None = None
    """Hash of all settings with which the model was trained, but for the seed: models that share it
    are seeds of one another. None where these are unknown."""

    n_train: int = 0
    n_validation: int = 0
    n_held_out: int = 0
    task_hash: str = ""
    """Of the prompts' tokens."""

    full_validation_loss: float | None = None
    """Two-way loss of the full model on the validation prompts, where it is judged whether the
    model can do the task."""

    full_validation_accuracy: float | None = None

    met_on_validation: bool = False
    """Whether any circuit met the target where it was searched for."""

    validation_loss: float | None = None
    """Of the chosen circuit, as its search measured it: after calibration of the logits where the
    method does that. The measurements below are without."""

    met_on_held_out: bool = False
    """Whether the chosen circuit meets the target on prompts it was not chosen on."""

    circuit: str | None = None
    """The chosen circuit's file, relative to the results' folder; see `Circuit.load`."""

    circuit_given_by: Literal["nodes", "edges"] | None = None
    search: tuple[tuple[int, float], ...] = ()
    """Every (number of nodes or edges, validation loss) that the search measured, in order."""

    seconds: float = 0.0
    """Of the discovery: ranking, and the search for the smallest circuit."""

    forward_passes: int = 0
    backward_passes: int = 0
    peak_memory: int | None = None
    """Bytes on a CUDA device; None elsewhere."""

    job_seconds: float = 0.0
    """Of the whole job, held-out measurements included."""

    device: str = ""
    """Where the model computed: `cpu`, `cuda:0`, ..."""

    hardware: str = ""
    """Name of that device or, on a CPU, of the processor."""

    threads: int = 0
    """That torch used on the CPU; sums may differ in their last bits with another number."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Of sparse-lens, torch, transformer-lens and Python."""

    measurements: tuple[Measurement, ...] = ()

    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """To the questions about the chosen circuit, by their names; empty where no circuit met the
    target. A number, or a list with one for each draw, by name."""

    columns: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)
    """How the report shows the answers, by the questions' names, also where the package of a
    question is not installed."""

    question_errors: Mapping[str, str] = field(default_factory=dict)
    """Tracebacks of questions that could not be answered, by their names."""

    error: str | None = None
    """Traceback of a failed job."""

    @property
    def seed_name(self) -> str:
        """The seed in words, or that the method has none."""
        return "deterministic" if self.deterministic else f"seed {self.seed}"

    @property
    def chosen(self) -> Measurement:
        """The measurement of the chosen circuit."""
        return self.of_kind("chosen")[0]

    @property
    def full(self) -> Measurement:
        """The measurement of the model itself."""
        return self.of_kind("full")[0]

    @property
    def curve(self) -> tuple[Measurement, ...]:
        """Measurements over edge budgets, smallest first."""
        return self.of_kind("budget")

    def of_kind(self, kind: MeasurementKind) -> tuple[Measurement, ...]:
        """Measurements of one kind, in order; none for a failed job."""
        return tuple(m for m in self.measurements if m.kind == kind)

    @property
    def target_words(self) -> str:
        """What the chosen circuit had to meet, in words."""
        return self.target or f"task loss {self.target_loss:g}"

    @property
    def has_implied_edges(self) -> bool:
        """Whether all edges between the kept nodes of a component graph count as the circuit's.

        Nearly every writer has an edge to every later reader there, so that this number grows as
        the square of the nodes, and is none to set beside edges that a method chose.
        """
        is_component = self.graph == "component"
        return self.met_on_validation and is_component and self.circuit_given_by == "nodes"

    @property
    def failures(self) -> dict[str, str]:
        """Tracebacks of what failed, by where: the job as a whole, or a question about it."""
        where = f"{self.model}, {self.task}, {self.method}, {self.seed_name}"
        job = {where: self.error or ""} if self.status == "failed" else {}
        return job | {f"{where}: {name}": error for name, error in self.question_errors.items()}

    def numbers(self, question: str, answer: str) -> tuple[int | float, ...]:
        """The numbers of that name in the answers to a question, one a draw; none if not asked."""
        value = self.answers.get(question, {}).get(answer)
        values = value if isinstance(value, list) else [value]
        return tuple(number for number in values if isinstance(number, (int, float)))

    def to_json(self) -> dict[str, Any]:
        """As it stands in `results.jsonl`."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Record:
        """Read what `to_json` gave.

        Raises:
            ValueError: when a field is missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        unknown = [name for name in row if name not in known]
        if unknown:
            raise ValueError(
                f"not a record of this version of sparse-lens: unknown fields {unknown}."
            )
        values = dict(row)
        values["search"] = tuple((int(size), float(loss)) for size, loss in row.get("search", ()))
        try:
            values["measurements"] = tuple(Measurement(**m) for m in row.get("measurements", ()))
            values["columns"] = {
                name: tuple(Column(**column) for column in columns)
                for name, columns in row.get("columns", {}).items()
            }
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"not a record of this version of sparse-lens: {error}.") from error
