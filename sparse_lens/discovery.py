"""What a method found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike

from sparse_lens.circuit import Circuit
from sparse_lens.cost import Cost
from sparse_lens.graphs.base import Graph
from sparse_lens.method import Method
from sparse_lens.scores import Scores
from sparse_lens.search import ChosenCircuit
from sparse_lens.versions import installed_versions


@dataclass(frozen=True, eq=False)
class Discovery:
    """What a method found: a ranking of nodes or edges, and the circuit that it chose."""

    method: Method
    task: str
    """The task's name."""

    scores: Scores
    """Which nodes or edges come first, with how they rank."""

    chosen: ChosenCircuit | None
    """The smallest circuit that meets the target; None where there were no validation prompts."""

    cost: Cost
    seed: int
    history: tuple[Mapping[str, float], ...] = field(default=(), repr=False)
    """The course of an optimisation, a row a step."""

    warnings: tuple[str, ...] = ()
    """What went wrong on the way, in sentences, such as a run of gates that collapsed."""

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
        return self.scores.top(n_nodes=n_nodes, n_edges=n_edges)

    def save(self, path: str | PathLike[str]) -> None:
        """Write to one safetensors file; see `sparse_lens.discovery_io.save`."""
        from sparse_lens import discovery_io

        discovery_io.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str], graph: Graph) -> Discovery:
        """Read what `save` wrote; see `sparse_lens.discovery_io.load`."""
        from sparse_lens import discovery_io

        return discovery_io.load(path, graph)
