"""The runs of the model in which attribution takes its gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_lens.graphs.base import Graph


@dataclass(frozen=True)
class GradientPoints:
    """Runs of the model whose gradients are averaged; by default the live run alone.

    In a run with share s, the moved values are s * live + (1 - s) * ablated, so that s = 1 is the
    live run, and the rest of the model computes what follows from them.
    """

    shares: tuple[float, ...] = (1.0,)

    site_by_site: bool = False
    """Move one site of the graph after the other, and use the gradients of a site's runs for its
    nodes and their outgoing edges. Otherwise the model's input is moved (its token and position
    embeddings), and its runs serve for all nodes and edges."""

    def __post_init__(self) -> None:
        if not self.shares or not all(0 <= share <= 1 for share in self.shares):
            raise ValueError(
                f"gradients are taken at one or more shares in [0, 1], got {self.shares}."
            )

    @property
    def begin_live(self) -> bool:
        """Whether the first run is the live one."""
        return not self.site_by_site and self.shares[0] == 1

    def n_runs(self, graph: Graph, *, edges: bool) -> int:
        """Number of runs, forward and backward, per batch of prompts."""
        return len(self.shares) * len(self.moved(graph, edges=edges))

    def n_passes(self, graph: Graph, *, edges: bool, copies: int) -> int:
        """Number of passes in which these runs are made, with at most so many copies per pass."""
        return len(self.together(copies)) * len(self.moved(graph, edges=edges))

    def together(self, copies: int) -> Sequence[tuple[float, ...]]:
        """The shares of each pass, with at most so many copies of the batch per pass.

        If the first run is the live one, it has a pass of its own, since the others need the live
        values that are captured in it.
        """
        live = self.shares[:1] if self.begin_live else ()
        others = self.shares[len(live) :]
        passes = [others[i : i + copies] for i in range(0, len(others), copies)]
        return [live, *passes] if live else passes

    def moved(self, graph: Graph, *, edges: bool) -> Sequence[str | None]:
        """The sites that are moved, one after the other; None stands for the input.

        Args:
            edges: only sites with outgoing edges.
        """
        if not self.site_by_site:
            return (None,)
        if not edges:
            return list(graph.valued_sites)
        slices = graph.node_slices.items()
        return [name for name, nodes in slices if bool(graph.edge_sources[nodes].any())]
