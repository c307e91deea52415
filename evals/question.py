"""The base class of questions about circuits, with their input, answers and report columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.metrics import CircuitMetrics
from sparse_lens.method import Method
from sparse_lens.patching import BoundAblation
from sparse_lens.plugins import load_entry_points
from sparse_lens.target import Target
from sparse_lens.task import Prompts, Task

ENTRY_POINT_GROUP = "sparse_lens.questions"

CONTROLS = "controls: two-way loss"
"""Group of columns: losses of the full model, random circuits and other controls."""

FAITHFULNESS = "is it the model's"
"""Group of columns: how close the circuit is to the full model."""

ROBUSTNESS = "does it hold: two-way loss"
"""Group of columns: whether the circuit depends on the ablation and prompts it was found with."""

MINIMAL_AND_COMPLETE = "is it all, and no more"
"""Group of columns: whether the circuit has too many or too few nodes."""

STABILITY = "is it the same again"
"""Group of columns: whether the method finds this circuit again, and no other."""

AGGREGATES: dict[str, Callable[[Sequence[int | float]], float]] = {
    "mean": fmean,
    "max": max,
    "min": min,
}

Answers = Mapping[str, Any]
"""Numbers by name, or lists with one number per draw; any JSON value is allowed."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A circuit that met its target, and everything that a question about it may need."""

    bound: BoundAblation
    """The model, its graph, and what absent nodes and edges carry."""

    circuit: Circuit
    prompts: Prompts
    """Held-out ones, on the model's device."""

    full_logits: Float[Tensor, "n vocab"]
    """The full model's, at the answer positions of these prompts."""

    metrics: CircuitMetrics
    """Of the circuit on these prompts."""

    measured: Callable[[Circuit], CircuitMetrics]
    """Metrics of any circuit on these prompts. Those that the comparison has measured (the circuit,
    its random controls, and what each of them leaves out) are not run again."""

    task: Task
    """The task with all its splits, including those that the circuit was found on."""

    method: Method
    """The method that found the circuit."""

    target: Target
    """What the circuit had to meet on the validation prompts."""

    seed: int
    """Seed of the method; use it for all random draws."""


@dataclass(frozen=True)
class Column:
    """A column of the report that shows one of a question's answers.

    Columns are stored in the record with the answers, so the report can be written without the
    question's code.
    """

    answer: str
    """Key of the number or list of numbers in the answers."""

    heading: str
    title: str
    """Tooltip of the heading."""

    group: str
    """Heading shared by all columns of the group."""

    meaning: str = ""
    """Explanation below the table; empty if the previous column explains this one, too."""

    form: str = ".3f"
    """Format specification, as for `format`."""

    over_draws: Literal["mean", "max", "min"] = "mean"
    """How the numbers of several draws are aggregated; over seeds the report takes the mean."""

    target_words: str = ""
    """Of a two-way loss with which a circuit should still meet its target: under what, in words
    that follow "meet the target". The report counts the circuits that do. Empty for other
    numbers."""

    def aggregate(self, numbers: Sequence[int | float]) -> float:
        """One number out of those of several draws."""
        return AGGREGATES[self.over_draws](numbers)


@dataclass(frozen=True)
class Question(ABC):
    """A question about a circuit.

    Subclasses are frozen dataclasses with hyperparameters as fields. The first line of a subclass's
    docstring is its description in `sparse-lens questions`.
    """

    @abstractmethod
    def ask(self, subject: Subject) -> Answers:
        """Answer for one circuit; an empty mapping if the question does not apply to the model."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that the answers fill in the report's table of controls."""
        return ()


def registry() -> dict[str, type[Question]]:
    """Every installed question by its name, ours and those of other packages.

    A package adds one through an entry point in the group `sparse_lens.questions`.

    Raises:
        ImportError: when one cannot be imported, naming the package that it comes from.
        ValueError: when one is no `Question`.
    """
    return load_entry_points(ENTRY_POINT_GROUP, Question)
