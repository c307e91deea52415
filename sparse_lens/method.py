"""What a circuit-finding method is, and which methods are installed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from transformer_lens import HookedTransformer
from typing_extensions import Self

from sparse_lens.ablation import Ablation
from sparse_lens.graphs.base import Graph
from sparse_lens.objectives import Objective
from sparse_lens.patching import BoundAblation, check_prompts
from sparse_lens.plugins import load_entry_points
from sparse_lens.task import Task

if TYPE_CHECKING:
    from sparse_lens.discovery import Discovery

ENTRY_POINT_GROUP = "sparse_lens.methods"


@dataclass(frozen=True)
class Method(ABC):
    """A circuit-finding method: hyperparameters as fields, and one verb."""

    objective: Objective
    """The loss that the method works on."""

    @property
    def is_deterministic(self) -> bool:
        """Whether `discover` finds the same whatever its seed: a comparison then runs it once.

        False if not overridden.
        """
        return False

    @property
    def takes_target(self) -> bool:
        """Whether it has a field for what its chosen circuit must meet."""
        return "target" in self._field_names

    def with_common(self, **values: Any) -> Self:
        """The method with those of these fields that it has, such as `target`."""
        return replace(self, **{name: values[name] for name in values if name in self._field_names})

    @property
    def _field_names(self) -> set[str]:
        return {field.name for field in fields(self)}

    @abstractmethod
    def discover(
        self,
        model: HookedTransformer,
        graph: Graph,
        task: Task,
        *,
        ablation: Ablation | BoundAblation,
        seed: int = 0,
    ) -> Discovery:
        """Find a circuit for a task, choosing on its train and validation prompts alone.

        Args:
            graph: of this model; which nodes and edges there are to choose from.
            ablation: what absent nodes and edges carry.
            seed: of everything random; without effect where the method is deterministic.
        """


def check_task(model: HookedTransformer, task: Task) -> None:
    """Refuse, before anything is computed, a task that cannot be asked of a model.

    Raises:
        ValueError: for what is no task, or for train or validation prompts that are too long for
            the model, or have tokens that it lacks.
    """
    if not isinstance(task, Task):
        raise ValueError(
            f"a method takes a Task, got {type(task).__name__}; of prompts make "
            "Task(name, train=prompts)."
        )
    for prompts in (task.train, task.validation):
        if prompts is not None:
            check_prompts(model, prompts)


def registry() -> dict[str, type[Method]]:
    """Every installed method by its name, ours and those of other packages.

    A package adds one through an entry point in the group `sparse_lens.methods`.

    Raises:
        ImportError: when one cannot be imported, naming the package that it comes from.
        ValueError: when one is no method.
    """
    return load_entry_points(ENTRY_POINT_GROUP, Method)
