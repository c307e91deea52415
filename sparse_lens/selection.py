"""Selecting edges from the output backwards, so that each of them leads to it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import EDGES, ComponentGraph

Row = tuple[str, int]
"""A block and a row of it: a destination, with the edges that enter it."""


class EdgesFromOutput:
    """Edges in the order in which greedy selection takes them, computed as far as was asked.

    As in EAP-IG's program (Hanna et al. 2403.17806): of all edges that enter what already leads to
    the output the best is taken, again and again. Links (see `sparse_lens.graphs.reachability`)
    lead to the output, too. What is taken need not be reached from the input. Of equal edges the
    earlier in the graph's order comes first.
    """

    def __init__(self, graph: Graph, edges: Mapping[str, Float[Tensor, "dst src"]]) -> None:
        """Of `edges`, by block, the largest comes first."""
        self._graph, self._values = graph, edges
        self._taken: list[int] = []
        self._edges = self._in_order()

    def first(self, n: int) -> list[int]:
        """Indices, in the graph's order of edges, of the first n; of all if there are fewer."""
        self._taken += islice(self._edges, max(0, n - len(self._taken)))
        return self._taken[:n]

    def _in_order(self) -> Iterator[int]:
        graph = self._graph
        places = graph.unflatten_edges(torch.arange(graph.n_edges))
        candidates: list[tuple[float, int, int]] = []  # minus score, place, which row
        rows: list[Iterator[tuple[float, int, int]]] = []
        sources: list[tuple[str, int]] = []
        opened: set[Row] = set()  # asked for membership only

        def offer(row: int) -> None:
            best = next(rows[row], None)
            if best is not None:
                value, place, source = best
                sources[row] = (sources[row][0], source)
                heapq.heappush(candidates, (-value, place, row))

        def open_row(row: Row) -> None:
            if row in opened:
                return
            opened.add(row)
            rows.append(self._best_first(*row, places[row[0]]))
            sources.append((row[0], -1))
            offer(len(rows) - 1)

        for row in _rows_at_output(graph):
            open_row(row)
        while candidates:
            _, place, row = heapq.heappop(candidates)
            block, source = sources[row]
            offer(row)
            for behind in _rows_behind(graph, block, source):
                open_row(behind)
            yield place

    def _best_first(self, block: str, row: int, places: Tensor) -> Iterator[tuple[float, int, int]]:
        """Score, place and source of the edges of a row."""
        columns = self._graph.blocks[block].support[row].nonzero().flatten()
        values = self._values[block][row, columns]
        order = values.argsort(descending=True, stable=True)
        columns = columns[order]
        of_edges = (values[order], places[row, columns], columns)
        return zip(*(one.tolist() for one in of_edges), strict=True)


def _rows_at_output(graph: Graph) -> list[Row]:
    """Destinations that lead to the output by links alone."""
    if isinstance(graph, ComponentGraph):
        return [(EDGES, graph.logits_reader.start)]
    assert isinstance(graph, ChannelGraph)
    return [(b.name, row) for b in graph.written_to_stream for row in range(graph.d_model)]


def _rows_behind(graph: Graph, block: str, source: int) -> list[Row]:
    """Destinations that lead on to a source of a block.

    A channel that is read leads on from written ones; but these lead to the output anyway.
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
    first = source // graph.d_head * graph.d_head
    head = range(first, first + graph.d_head)
    return [(v, source), *((block, row) for block in (q, k) for row in head)]
