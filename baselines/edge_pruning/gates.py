"""One gate for every edge of a graph, and optionally one for every writer, as a flat vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sparse_lens.graphs.base import Graph
from sparse_lens.masks import Masks
from sparse_lens.scores import Scores


class EdgeGates:
    """What a vector of gates means: first the edges' block after block, then the writers'.

    An edge carries its source's live value times its own gate times its writer's. Writers are the
    nodes that edges leave: on a component graph the embedding, heads and MLPs, on a channel graph
    the channels that weights read.
    """

    def __init__(
        self, graph: Graph, *, writers: bool = False, device: torch.device | str | None = None
    ) -> None:
        self.graph = graph
        self.n_edges = graph.n_edges
        self._sites: dict[str, int] = {}
        self._sources: Tensor | None = None
        if writers:
            self._sites = {
                name: site.width
                for name, site in graph.sites.items()
                if bool(graph.edge_sources[graph.node_slices[name]].any())
            }
            self._sources = _sources(graph, list(self._sites)).to(device)

    @property
    def n_gates(self) -> int:
        """Length of the vector."""
        return self.n_edges + sum(self._sites.values())

    def masks(self, gates: Float[Tensor, " gates"]) -> Masks:
        """The gates as masks; gradients reach them."""
        sizes = list(self._sites.values())
        writers = gates[self.n_edges :].split(sizes) if sizes else ()
        nodes = dict(zip(self._sites, writers, strict=True))
        return Masks(self.graph, nodes, self.graph.unflatten_edges(gates[: self.n_edges]))

    def kept(self, gates: Float[Tensor, " gates"]) -> Float[Tensor, ""]:
        """The sum over edges of an edge's gate times its writer's."""
        edges = gates[: self.n_edges]
        if self._sources is None:
            return edges.sum()
        return edges @ gates[self.n_edges :].index_select(0, self._sources)

    def scores(self, log_alpha: Float[Tensor, " gates"], offset: float) -> Scores:
        """Edges by the log alpha of one gate that is open as often as both its gates are.

        That is their own log alpha where writers have no gates, and else logit(P P') - offset,
        with P and P' the probabilities that the gates of edge and writer are open.

        Args:
            offset: of the distribution of the gates, see `HardConcrete.offset`.
        """
        edges = log_alpha.detach().cpu().double()
        if self._sources is not None:
            log_p = F.logsigmoid(edges + offset)
            log_p = log_p[: self.n_edges] + log_p[self.n_edges :].index_select(
                0, self._sources.cpu()
            )
            edges = log_p - torch.log(-torch.expm1(log_p)) - offset
        return Scores(self.graph, edges=self.graph.unflatten_edges(edges), absolute=False)

    def of_scores(self, scores: Scores) -> Float[Tensor, " edges"]:
        """What a vector's edges rank by, on the CPU; by node scores, the lower of its ends."""
        if scores.graph != self.graph:
            raise ValueError(
                f"the initial scores are of another graph: {scores.graph}, expected {self.graph}."
            )
        if scores.edges is not None:
            return scores.importance
        nodes = scores.importance
        lower = {
            name: torch.minimum(nodes[block.dst_nodes, None], nodes[block.src_nodes])
            for name, block in self.graph.blocks.items()
        }
        return self.graph.flatten_edges(lower)


def _sources(graph: Graph, sites: list[str]) -> Int[Tensor, " edges"]:
    """For every edge the index of its source among the nodes of the given sites."""
    index = torch.full((graph.n_nodes,), -1)
    stop = 0
    for name in sites:
        start, stop = stop, stop + graph.sites[name].width
        index[graph.node_slices[name]] = torch.arange(start, stop)
    return graph.flatten_edges(
        {
            name: index[block.src_nodes].expand(block.support.shape)
            for name, block in graph.blocks.items()
        }
    )
