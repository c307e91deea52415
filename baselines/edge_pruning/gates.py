"""One gate for every edge of a graph, and optionally one for every writer, as a flat vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_lens.graphs.base import Graph, is_everything
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
        self._places = {  # None where every pair is an edge
            block: None if is_everything(support) else support.flatten().nonzero()[:, 0].to(device)
            for block, support in graph.edge_support.items()
        }
        self._counts = [int(support.count_nonzero()) for support in graph.edge_support.values()]
        self._sites: dict[str, int] = {}
        self._sources: Tensor | None = None
        if writers:
            is_writer = _nodes_that_edges_leave(graph)
            self._sites = {
                name: where.stop - where.start
                for name, where in graph.node_slices.items()
                if bool(is_writer[where].any())
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
        return Masks(self.graph, nodes, self.by_block(gates[: self.n_edges]))

    def kept(self, gates: Float[Tensor, " gates"]) -> Float[Tensor, ""]:
        """The sum over edges of an edge's gate times its writer's."""
        edges = gates[: self.n_edges]
        if self._sources is None:
            return edges.sum()
        return edges @ gates[self.n_edges :].index_select(0, self._sources)

    def by_block(self, edges: Float[Tensor, " edges"]) -> dict[str, Float[Tensor, "dst src"]]:
        """One value for every edge as one matrix for every block, 0 where there is no edge."""
        matrices = {}
        shapes = self.graph.block_shapes
        for (block, places), part in zip(
            self._places.items(), edges.split(self._counts), strict=True
        ):
            if places is not None:
                numel = torch.Size(shapes[block]).numel()
                part = part.new_zeros(numel).index_copy(0, places, part)
            matrices[block] = part.view(shapes[block])
        return matrices

    def flat(self, by_block: Mapping[str, Float[Tensor, "dst src"]]) -> Float[Tensor, " edges"]:
        """The reverse of `by_block`."""
        parts = []
        for block, places in self._places.items():
            part = by_block[block].flatten()
            parts.append(part if places is None else part.index_select(0, places.to(part.device)))
        return torch.cat(parts)

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
        return Scores(self.graph, edges=self.by_block(edges), absolute=False)

    def of_scores(self, scores: Scores) -> Float[Tensor, " edges"]:
        """What a vector's edges rank by, on the CPU; by node scores, the lower of its ends."""
        if scores.graph != self.graph:
            raise ValueError(
                f"the initial scores are of another graph: {scores.graph}, expected {self.graph}."
            )
        if scores.edges is not None:
            values = self.flat(scores.edges)
            return values.abs() if scores.absolute else values
        nodes = scores.importance
        lower = {
            block: torch.minimum(nodes[ends.dst][:, None], nodes[ends.src])
            for block, ends in self.graph.ends.items()
        }
        return self.flat(lower)


def _nodes_that_edges_leave(graph: Graph) -> Bool[Tensor, " nodes"]:
    leaves = torch.zeros(graph.n_nodes, dtype=torch.bool)
    for ends in graph.ends.values():
        leaves[ends.src] = True
    return leaves


def _sources(graph: Graph, sites: list[str]) -> Int[Tensor, " edges"]:
    """For every edge the place of its source among the nodes of the given sites."""
    place = torch.full((graph.n_nodes,), -1)
    stop = 0
    for name in sites:
        where = graph.node_slices[name]
        start, stop = stop, stop + where.stop - where.start
        place[where] = torch.arange(start, stop)
    return torch.cat(
        [
            place[graph.ends[block].src].expand(support.shape)[support]
            for block, support in graph.edge_support.items()
        ]
    )
