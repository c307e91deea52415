"""What can be removed from a circuit one at a time: its nodes, or its edges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from sparse_lens.graphs.base import Graph
from sparse_lens.patching import Kept

Unit = TypeVar("Unit")


class Removable(ABC, Generic[Unit]):
    """A kind of unit that a circuit can lose."""

    @abstractmethod
    def units(self, kept: Kept) -> list[Unit]:
        """Those that a circuit keeps and may lose, in the graph's order."""

    @abstractmethod
    def keeps(self, kept: Kept, unit: Unit) -> bool:
        """Whether a circuit still keeps one of them."""

    @abstractmethod
    def without(self, kept: Kept, unit: Unit) -> Kept:
        """The circuit without one of them, and without nodes that lose their last edge by it."""


class Nodes(Removable[int]):
    """Nodes, by their number in the graph; those of fixed sites stay."""

    def units(self, kept: Kept) -> list[int]:
        removable = kept.nodes.clone()
        for site in kept.graph.fixed_sites:
            removable[kept.graph.node_slices[site]] = False
        return removable.nonzero().flatten().tolist()

    def keeps(self, kept: Kept, unit: int) -> bool:
        return bool(kept.nodes[unit])

    def without(self, kept: Kept, unit: int) -> Kept:
        graph, nodes = kept.graph, kept.nodes.clone()
        nodes[unit] = False
        if kept.edges is None:
            return Kept(graph, nodes)
        edges, neighbours = dict(kept.edges), torch.zeros_like(nodes)
        for name, block in graph.blocks.items():
            rows, columns = block.dst_nodes == unit, block.src_nodes == unit
            if rows.any() or columns.any():
                lost = edges[name] & (rows[:, None] | columns)
                edges[name] = edges[name] & ~lost
                neighbours[block.dst_nodes[lost.any(1)]] = True
                neighbours[block.src_nodes[lost.any(0)]] = True
        _drop_without_edges(graph, nodes, edges, neighbours.nonzero().flatten().tolist())
        return Kept(graph, nodes, edges)


class Edges(Removable[tuple[str, int, int]]):
    """Edges, by block, row and column, of an edge circuit."""

    def units(self, kept: Kept) -> list[tuple[str, int, int]]:
        assert kept.edges is not None
        return [
            (block, dst, src)
            for block, mask in kept.edges.items()
            for dst, src in mask.nonzero().tolist()
        ]

    def keeps(self, kept: Kept, unit: tuple[str, int, int]) -> bool:
        assert kept.edges is not None
        block, dst, src = unit
        return bool(kept.edges[block][dst, src])

    def without(self, kept: Kept, unit: tuple[str, int, int]) -> Kept:
        assert kept.edges is not None
        graph, (name, dst, src) = kept.graph, unit
        edges, nodes = dict(kept.edges), kept.nodes.clone()
        edges[name] = edges[name].clone()
        edges[name][dst, src] = False
        block = graph.blocks[name]
        ends = [int(block.dst_nodes[dst]), int(block.src_nodes[src])]
        _drop_without_edges(graph, nodes, edges, ends)
        return Kept(graph, nodes, edges)


def as_edges(kept: Kept) -> Kept:
    """The edge circuit of a node circuit: the edges between its nodes, and their ends.

    It does not run as the node circuit does: there, what kept nodes send to pruned ones acts on
    which channels an AbsTopK chooses, and a kept node without an edge carries its live value.
    """
    if kept.edges is not None:
        return kept
    graph = kept.graph
    edges = {block: graph.edges_between(block, kept.nodes) for block in graph.blocks}
    return Kept(graph, graph.nodes_of_edges(edges, kept.nodes), edges)


def _drop_without_edges(
    graph: Graph,
    nodes: Bool[Tensor, " nodes"],
    edges: Mapping[str, Bool[Tensor, "dst src"]],
    candidates: list[int],
) -> None:
    """Prune, in place, those of some nodes that no edge touches."""
    for node in candidates:
        nodes[node] = any(
            bool(edges[name][block.dst_nodes == node].any())
            or bool(edges[name][:, block.src_nodes == node].any())
            for name, block in graph.blocks.items()
        )
