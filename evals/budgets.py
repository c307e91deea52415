"""The sizes at which a comparison measures circuits."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_lens.graphs.base import Graph


@dataclass(frozen=True)
class EdgeBudgets:
    """Numbers of edges: shares of a graph's edges, and counts that are the same for every graph.

    The shares are those of the MIB benchmark; the counts make small circuits of models of
    different sizes comparable.

    Raises:
        ValueError: for a share outside (0, 1] or a count below 1.
    """

    fractions: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    counts: tuple[int, ...] = (3, 10, 30, 100, 300, 1000, 3000)

    def __post_init__(self) -> None:
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ValueError(f"fractions must lie in (0, 1], got {self.fractions}.")
        if not all(count >= 1 for count in self.counts):
            raise ValueError(f"counts must be 1 or more, got {self.counts}.")

    def of(self, graph: Graph) -> tuple[int, ...]:
        """The budgets for a graph, smallest first; none above its number of edges."""
        sizes = [max(1, round(fraction * graph.n_edges)) for fraction in self.fractions]
        sizes += self.counts
        return tuple(sorted({size for size in sizes if size <= graph.n_edges}))
