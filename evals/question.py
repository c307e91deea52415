"""What a question about a circuit is, what it is asked of, and what it adds to the report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.metrics import CircuitMetrics
from sparse_lens.method import Method
from sparse_lens.patching import BoundAblation
from sparse_lens.plugins import load_entry_points
from sparse_lens.task import Prompts, Task

ENTRY_POINT_GROUP = "sparse_lens.questions"

CONTROLS = "controls: two-way loss"
"""Group of columns of what stands beside a circuit: the full model, random circuits, ..."""

FAITHFULNESS = "is it the model's"
"""Group of columns of the questions how near a circuit comes to its model."""

ROBUSTNESS = "does it hold: two-way loss"
"""Group of columns of the questions whether a circuit depends on how it was found."""

MINIMAL_AND_COMPLETE = "is it all, and no more"
"""Group of columns of the questions whether a circuit has nodes too many or too few."""

Answers = Mapping[str, Any]
"""Numbers, or lists of numbers (one a draw), by name; anything that JSON can hold."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A circuit that met its target, with what a question about it needs."""

    bound: BoundAblation
    """The model, its graph, and what absent nodes and edges carry."""

    circuit: Circuit
    prompts: Prompts
    """Held-out ones, on the model's device."""

    full_logits: Float[Tensor, "n vocab"]
    """The full model's, at the answer positions of these prompts."""

    metrics: CircuitMetrics
    """Of the circuit on these prompts."""

    ablated: CircuitMetrics
    """Of the model with the circuit ablated and the rest kept."""

    task: Task
    """All splits: what the circuit was found on, too."""

    method: Method
    """What found the circuit."""

    target_loss: float
    """Nats a prompt that the circuit had to meet on the validation prompts."""

    seed: int
    """Of the method, and of all draws."""


@dataclass(frozen=True)
class Column:
    """A column of the report that shows one of a question's answers.

    Plain data, which is kept beside the answers: a report needs no code of the question's.
    """

    answer: str
    """Name of the number, or of the list of numbers, in the answers."""

    heading: str
    title: str
    """A line that is shown when one points at the heading."""

    group: str
    """Heading over the neighbouring columns of the same group."""

    meaning: str = ""
    """Sentences below the table. Where empty, those of the question's column before this one."""

    form: str = ".3f"
    """Format specification of the number."""

    over_draws: Literal["mean", "max", "min"] = "mean"
    """How the numbers of all seeds and draws become one."""


@dataclass(frozen=True)
class Question(ABC):
    """A question about a circuit: hyperparameters as fields, and one verb."""

    @abstractmethod
    def ask(self, subject: Subject) -> Answers:
        """Answer for one circuit; nothing where the question does not apply to the model."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the answers add to the report's table of controls; nothing by default."""
        return ()


def registry() -> dict[str, type[Question]]:
    """Every installed question by its name, ours and those of other packages.

    A package adds one through an entry point in the group `sparse_lens.questions`.

    Raises:
        ImportError: when one cannot be imported, naming the package that it comes from.
        ValueError: when one is no `Question`.
    """
    return load_entry_points(ENTRY_POINT_GROUP, Question)
