"""Where attribution takes its gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_lens.graphs.base import Graph


@dataclass(frozen=True)
class GradientPoints:
    """Runs of the model whose gradients are averaged; by default the live run alone.

    A share of 1 is the live run; at a share s below, what is moved has the value
    s * live + (1 - s) * ablated. What is moved is the model's input (its token and position
    embeddings), or one site of the graph after the other, each while the rest of the model runs
    on from there, and then a site's gradients serve for what leaves that site.
    """

    shares: tuple[float, ...] = (1.0,)
    site_by_site: bool = False

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
        """How many runs, forward and backward, a batch of prompts takes."""
        return len(self.shares) * len(self.moved(graph, edges=edges))

    def n_passes(self, graph: Graph, *, edges: bool, copies: int) -> int:
        """In how many passes these are made, at so many copies of the batch a pass."""
        return len(self.together(copies)) * len(self.moved(graph, edges=edges))

    def together(self, copies: int) -> Sequence[tuple[float, ...]]:
        """The shares of each pass, at so many copies of the batch a pass.

        A live run at the beginning has a pass of its own: what it shows of the model, the others
        need.
        """
        alone = self.shares[:1] if self.begin_live else ()
        rest = self.shares[len(alone) :]
        passes = [rest[i : i + copies] for i in range(0, len(rest), copies)]
        return [alone, *passes] if alone else passes

    def moved(self, graph: Graph, *, edges: bool) -> Sequence[str | None]:
        """The sites that are moved in turn; None stands for the input.

        Args:
            edges: only sites that edges leave.
        """
        if not self.site_by_site:
            return (None,)
        if not edges:
            return [name for name in graph.sites if name != "logits"]
        slices = graph.node_slices.items()
        return [name for name, nodes in slices if bool(graph.edge_sources[nodes].any())]
