"""The jobs of a comparison that have nothing to find, as controls for the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_lens.evals.harness.sources import ModelSource
from sparse_lens.evals.labels import check_list
from sparse_lens.task import Task


@dataclass(frozen=True)
class NothingToFind:
    """Tasks without a rule and models of random weights, beside a comparison's own.

    A circuit that a method finds there is made by its search. These jobs are run by all methods,
    once each, with the comparison's first seed; they count in no mean size and no ratio. Such tasks
    and models among the comparison's own, known by their names, are controls, too.

    Raises:
        ValueError: for a negative number, or tasks that are no list.
    """

    tasks: Sequence[str | Task] = ("nonsense",)
    """Asked of all models."""

    random_models: int = 1
    """Of how many models, the first ones, there is a twin of random weights: see
    `sparse_lens.random_weights`."""

    random_tasks: int = 1
    """How many of the comparison's tasks, the first ones, such a twin is asked."""

    def __post_init__(self) -> None:
        check_list("tasks", self.tasks)
        for name in ("random_models", "random_tasks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")

    def tasks_beside(self, tasks: Sequence[str | Task]) -> list[str | Task]:
        """The tasks without a rule that are not among a comparison's own."""
        return [task for task in self.tasks if not (isinstance(task, str) and task in tasks)]

    def models_beside(self, models: Sequence[ModelSource]) -> list[ModelSource]:
        """The models of random weights that are not among a comparison's own."""
        if not self.random_tasks:
            return []
        trained = [model for model in models if not model.is_random]
        twins = [model.at_random() for model in trained[: self.random_models]]
        hashes = [model.hash for model in models]
        return [twin for twin in twins if twin.hash not in hashes]


NO_CONTROLS = NothingToFind(tasks=(), random_models=0)
