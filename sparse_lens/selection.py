"""Greedy selection of edges from the output backwards, so that each of them leads to it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import EDGES, ComponentGraph

Row = tuple[str, int]
"""A block and one of its rows: a destination, and the edges that enter it."""


class EdgesFromOutput:
    """Edges in the order in which greedy selection takes them, computed as far as needed.

    As in EAP-IG's program (Hanna et al. 2403.17806), edges are selected one after the other: each
    time the best one of those that enter a node that leads to the output, over selected edges or
    links (see `sparse_lens.graphs.reachability`). Selected edges need not be reachable from the
    input. Ties are broken by the graph's order of edges.
    """

    def __init__(self, graph: Graph, edges: Mapping[str, Float[Tensor, "dst src"]]) -> None:
        """The largest of `edges`, given by block, are the best."""
        self._graph, self._values = graph, edges
        self._selected: list[int] = []
        self._selection = self._select()

    def first(self, n: int) -> list[int]:
        """Indices, in the graph's order of edges, of the first n; of all if there are fewer."""
        self._selected += islice(self._selection, max(0, n - len(self._selected)))
        return self._selected[:n]

    def _select(self) -> Iterator[int]:
        """Indices of edges in the order of selection.

        The heap holds the best edge that is left of each row that leads to the output, so it stays
        as small as the number of these rows.
        """
        graph = self._graph
        indices = graph.unflatten_edges(torch.arange(graph.n_edges))
        heap: list[tuple[float, int, Row, int]] = []  # minus score, index, row, source
        rows: dict[Row, Iterator[tuple[float, int, int]]] = {}

        def push_best_of(row: Row) -> None:
            edge = next(rows[row], None)
            if edge is not None:
                value, index, source = edge
                heapq.heappush(heap, (-value, index, row, source))

        def add_row(row: Row) -> None:
            if row not in rows:
                rows[row] = self._best_first(row, indices[row[0]])
                push_best_of(row)

        for row in _rows_at_output(graph):
            add_row(row)
        while heap:
            _, index, row, source = heapq.heappop(heap)
            push_best_of(row)
            block, _ = row
            for row_behind in _rows_behind(graph, block, source):
                add_row(row_behind)
            yield index

    def _best_first(
        self, row: Row, indices: Int[Tensor, "dst src"]
    ) -> Iterator[tuple[float, int, int]]:
        """Score, index and source (column) of the edges of a row, the best first."""
        block, dst = row
        columns = self._graph.blocks[block].support[dst].nonzero().flatten()
        values = self._values[block][dst, columns]
        order = values.argsort(descending=True, stable=True)
        columns = columns[order]
        edges = (values[order], indices[dst, columns], columns)
        return zip(*(tensor.tolist() for tensor in edges), strict=True)


def _rows_at_output(graph: Graph) -> list[Row]:
    """Destinations that lead to the output over links alone."""
    if isinstance(graph, ComponentGraph):
        return [(EDGES, graph.logits_reader.start)]
    assert isinstance(graph, ChannelGraph)
    return [(block.name, row) for block in graph.written_to_stream for row in range(graph.d_model)]


def _rows_behind(graph: Graph, block: str, source: int) -> list[Row]:
    """Destinations that lead to a source of a block, as the same node or over links.

    Written channels lead to the channels of `attn_in` and `mlp_in`, but these are not listed, since
    all of them lead to the output anyway.
    """
    if isinstance(graph, ComponentGraph):
        rows = (graph.block.dst_nodes == source).nonzero().flatten().tolist()
        return [(EDGES, row) for row in rows]
    assert isinstance(graph, ChannelGraph)
    site = graph.blocks[block].source
    if site.role not in ("mlp_post", "v"):
        return []
    assert site.layer is not None
    if site.role == "mlp_post":
        return [(graph.block(site.layer, "mlp_in", "mlp_post").name, source)]
    q, k, v = (graph.block(site.layer, "attn_in", letter).name for letter in "qkv")
    first_channel = source // graph.d_head * graph.d_head
    head = range(first_channel, first_channel + graph.d_head)
    return [(v, source), *((block, channel) for block in (q, k) for channel in head)]
