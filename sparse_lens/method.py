"""What a circuit-finding method is, and what it returns."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike

import torch
from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation
from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph
from sparse_lens.objectives import Objective
from sparse_lens.patching import BoundAblation, check_prompts, counted
from sparse_lens.plugins import installed_classes
from sparse_lens.scores import Scores
from sparse_lens.search import ChosenCircuit
from sparse_lens.task import Task
from sparse_lens.versions import installed_versions

ENTRY_POINT_GROUP = "sparse_lens.methods"


@dataclass(frozen=True)
class Method(ABC):
    """A circuit-finding method: hyperparameters as fields, and one verb."""

    objective: Objective
    """The loss that the method works on."""

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
            seed: of everything random.
        """


@dataclass(frozen=True)
class Cost:
    """What a discovery took."""

    forward_passes: int = 0
    """Passes of a batch through the model, circuits included."""

    backward_passes: int = 0
    seconds: float = 0.0
    peak_memory: int | None = None
    """Bytes on a CUDA device; None elsewhere."""


@dataclass(frozen=True, eq=False)
class Discovery:
    """What a method found: a ranking of nodes or edges, and the circuit that it chose."""

    method: Method
    task: str
    """The task's name."""

    scores: Scores
    """Higher is more important (by absolute value where `absolute`)."""

    chosen: ChosenCircuit | None
    """The smallest circuit that meets the target; None where there were no validation prompts."""

    cost: Cost
    seed: int
    absolute: bool = True
    """Whether the ranking is by absolute value."""

    history: tuple[Mapping[str, float], ...] = field(default=(), repr=False)
    """The course of an optimisation, a row a step."""

    circuits: tuple[Circuit, ...] = field(default=(), repr=False)
    """Circuits that the method itself settled on, such as one for each threshold or target; a
    method that only ranks has none."""

    versions: Mapping[str, str] = field(default_factory=installed_versions, repr=False)
    """Of sparse-lens, torch, transformer-lens and Python."""

    @property
    def circuit(self) -> Circuit:
        """The circuit that the method chose.

        Raises:
            ValueError: when it had no validation prompts to choose on.
        """
        if self.chosen is None:
            raise ValueError(
                f"task {self.task!r} has no validation split to choose a circuit on: pass "
                "Task(..., validation=Prompts(...)), or take discovery.at(n_edges=...)."
            )
        return self.chosen.circuit

    def at(self, *, n_edges: int | None = None, n_nodes: int | None = None) -> Circuit:
        """The circuit of a given size: the nearest of `circuits`, else see :meth:`Scores.top`.

        Of two that are equally near the smaller is taken.

        Raises:
            ValueError: unless exactly one of the sizes is given.
        """
        if (n_edges is None) == (n_nodes is None):
            raise ValueError("pass either n_edges or n_nodes.")
        if self.circuits and n_edges is not None:
            return min(self.circuits, key=lambda c: (abs(c.n_edges - n_edges), c.n_edges))
        if self.circuits and n_nodes is not None:
            return min(self.circuits, key=lambda c: (abs(c.n_nodes - n_nodes), c.n_nodes))
        return self.scores.top(n_nodes=n_nodes, n_edges=n_edges, absolute=self.absolute)

    def save(self, path: str | PathLike[str]) -> None:
        """Write to one safetensors file; see `sparse_lens.discovery_io.save`."""
        from sparse_lens import discovery_io

        discovery_io.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str], graph: Graph) -> Discovery:
        """Read what `save` wrote; see `sparse_lens.discovery_io.load`."""
        from sparse_lens import discovery_io

        return discovery_io.load(path, graph)


class CostMeter:
    """Counts passes and takes the time while a method works."""

    def __init__(self, device: torch.device | str | None) -> None:
        self.forward_passes = 0
        self.backward_passes = 0
        self._device = torch.device(device or "cpu")
        self._started = time.perf_counter()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def cost(self) -> Cost:
        """What was spent so far."""
        peak = None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            peak = torch.cuda.max_memory_allocated(self._device)
        seconds = time.perf_counter() - self._started
        return Cost(self.forward_passes, self.backward_passes, seconds, peak)


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


@contextmanager
def metered(model: HookedTransformer) -> Iterator[CostMeter]:
    """Count every forward pass of a model inside the context."""
    meter = CostMeter(model.cfg.device)

    def count() -> None:
        meter.forward_passes += 1

    with counted(model, count):
        yield meter


def registry() -> dict[str, type[Method]]:
    """Every installed method by its name, ours and those of other packages.

    A package adds one through an entry point in the group `sparse_lens.methods`.

    Raises:
        ImportError: when one cannot be imported, naming the package that it comes from.
    """
    return installed_classes(ENTRY_POINT_GROUP, Method)
