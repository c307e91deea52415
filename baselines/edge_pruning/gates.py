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
    """The layout of a vector of gates: those of edges, block after block, then those of writers.

    An edge with gate z whose writer has gate w passes on the share z * w of the live value, and
    1 - z * w of the ablated one. Writers are the nodes that edges leave: on a component graph the
    embedding, heads and MLPs, on a channel graph the channels that weights read.
    """

    def __init__(
        self, graph: Graph, *, writers: bool = False, device: torch.device | str | None = None
    ) -> None:
        self.graph = graph
        self.n_edges = graph.n_edges
        self._writer_sites: dict[str, int] = {}  # width by site
        self._writer_of_edge: Tensor | None = None
        if writers:
            self._writer_sites = {
                name: site.width
                for name, site in graph.sites.items()
                if bool(graph.edge_sources[graph.node_slices[name]].any())
            }
            writer_of_edge = _writer_of_edge(graph, list(self._writer_sites))
            self._writer_of_edge = writer_of_edge.to(device)

    @property
    def n_gates(self) -> int:
        """Length of the vector."""
        return self.n_edges + sum(self._writer_sites.values())

    def masks(self, gates: Float[Tensor, " gates"]) -> Masks:
        """The gates as masks; gradients reach them."""
        widths = list(self._writer_sites.values())
        writers = gates[self.n_edges :].split(widths) if widths else ()
        nodes = dict(zip(self._writer_sites, writers, strict=True))
        return Masks(self.graph, nodes, self.graph.unflatten_edges(gates[: self.n_edges]))

    def kept(self, gates: Float[Tensor, " gates"]) -> Float[Tensor, ""]:
        """The sum over edges of an edge's gate times its writer's: how many edges are kept."""
        edges = gates[: self.n_edges]
        if self._writer_of_edge is None:
            return edges.sum()
        return edges @ gates[self.n_edges :].index_select(0, self._writer_of_edge)

    def scores(self, log_alpha: Float[Tensor, " gates"], offset: float) -> Scores:
        """An edge's score is the log alpha of a single gate that is open with the same probability.

        Without gates on writers that is the log alpha of the edge's gate. With them the edge is
        open if both gates are, and the score is logit(P P') - offset, where
        P = sigmoid(log alpha + offset) is the probability that the edge's gate is open and P' that
        of its writer's.

        Args:
            offset: of the distribution of the gates, see `HardConcrete.offset`.
        """
        edges = log_alpha.detach().cpu().double()
        if self._writer_of_edge is not None:
            log_open = F.logsigmoid(edges + offset)  # [gates]
            writers_open = log_open[self.n_edges :].index_select(0, self._writer_of_edge.cpu())
            log_both = log_open[: self.n_edges] + writers_open  # log(P P'), [edges]
            # logit(p) = log p - log(1 - p), and 1 - p = -expm1(log p) without loss near p = 1.
            edges = log_both - torch.log(-torch.expm1(log_both)) - offset
        return Scores(self.graph, edges=self.graph.unflatten_edges(edges), absolute=False)

    def importance(self, scores: Scores) -> Float[Tensor, " edges"]:
        """By edge, the importance in other scores, on the CPU.

        Of node scores an edge has the lower one of its two ends.
        """
        if scores.graph != self.graph:
            raise ValueError(
                f"the initial scores are of another graph: {scores.graph}, expected {self.graph}."
            )
        if scores.nodes is None:
            return scores.importance
        nodes = scores.importance
        lower = {
            name: torch.minimum(nodes[block.dst_nodes, None], nodes[block.src_nodes])
            for name, block in self.graph.blocks.items()
        }
        return self.graph.flatten_edges(lower)


def _writer_of_edge(graph: Graph, sites: list[str]) -> Int[Tensor, " edges"]:
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
