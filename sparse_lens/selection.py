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
        graph, places = self._graph, _places(self._graph)
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
        columns = self._graph.edge_support[block][row].nonzero().flatten()
        values = self._values[block][row, columns]
        order = values.argsort(descending=True, stable=True)
        columns = columns[order]
        of_edges = (values[order], places[row, columns], columns)
        return zip(*(one.tolist() for one in of_edges), strict=True)


def _places(graph: Graph) -> dict[str, Tensor]:
    """By block: where each edge stands in the graph's order."""
    places, start = {}, 0
    for block, support in graph.edge_support.items():
        dst, src = graph.ordered_edges(block, support)
        places[block] = torch.zeros(support.shape, dtype=torch.long)
        places[block][dst, src] = torch.arange(start, start + len(dst))
        start += len(dst)
    return places


def _rows_at_output(graph: Graph) -> list[Row]:
    """Destinations that lead to the output by links alone."""
    if isinstance(graph, ComponentGraph):
        return [(EDGES, graph.logits_reader.start)]
    assert isinstance(graph, ChannelGraph)
    written = [block for block in graph.edge_support if block.endswith("_out")]
    return [(block, row) for block in written for row in range(graph.d_model)]


def _rows_behind(graph: Graph, block: str, source: int) -> list[Row]:
    """Destinations that lead on to a source of a block.

    A channel that is read leads on from written ones; but these lead to the output anyway.
    """
    if isinstance(graph, ComponentGraph):
        rows = (graph.ends[EDGES].dst == source).nonzero().flatten().tolist()
        return [(EDGES, row) for row in rows]
    assert isinstance(graph, ChannelGraph)
    at = block.partition("->")[0]
    if at.endswith(".mlp_post"):
        return [(f"{at.removesuffix('post')}in->{at}", source)]
    if not at.endswith(".v"):
        return []
    layer = at.removesuffix(".v")
    first = source // graph.d_head * graph.d_head
    head = range(first, first + graph.d_head)
    attends = [(f"{layer}.attn_in->{layer}.{letter}", row) for letter in "qk" for row in head]
    return [(f"{layer}.attn_in->{at}", source), *attends]
