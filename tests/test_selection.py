"""Greedy selection against a loop that asks, before every edge, what leads to the output."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.graphs.reachability import reach
from sparse_lens.scores import Scores
from tests.patching import tiny

GRAPHS = [
    (ComponentGraph, {"n_heads": 2}),
    (ComponentGraph, {"n_heads": 2, "parallel_attn_mlp": True}),
    (ChannelGraph, {"n_heads": 2, "d_model": 4, "d_head": 2, "d_mlp": 3}),
]


def build(make: Any, changes: dict[str, Any]) -> tuple[Graph, Scores]:
    graph = make.from_model(tiny.dense("LN", **changes))
    generator = torch.Generator().manual_seed(0)
    edges = {
        # Rounded, so that there are ties.
        block: (torch.randn(shape, generator=generator) * 20).round() / 20
        for block, shape in graph.block_shapes.items()
    }
    return graph, Scores(graph, edges=edges, greedy=True)


def slowly(graph: Graph, scores: Scores, n: int) -> list[str]:
    """Names of edges, each the best of those whose end leads to the output."""
    values = {name: abs(v) if scores.absolute else v for name, v in scores.by_name().items()}
    everything = torch.ones(graph.n_nodes, dtype=torch.bool)
    taken = {
        block: torch.zeros(s.shape, dtype=torch.bool) for block, s in graph.edge_support.items()
    }
    names: list[str] = []
    for _ in range(n):
        leads = reach(graph, everything, taken.__getitem__).dst
        open_ = [
            name
            for name in values
            for block, dst, src in [graph.parse_edge(name)]
            if bool(leads[block][dst]) and not bool(taken[block][dst, src])
        ]
        best = max(open_, key=values.__getitem__)  # of equal ones the first
        block, dst, src = graph.parse_edge(best)
        taken[block][dst, src] = True
        names.append(best)
    return names


@pytest.mark.parametrize(("make", "changes"), GRAPHS, ids=["component", "parallel", "channel"])
@pytest.mark.parametrize("absolute", [True, False])
def test_best_edges_from_the_output_backwards(make: Any, changes: Any, absolute: bool) -> None:
    graph, scores = build(make, changes)
    scores = replace(scores, absolute=absolute)
    wanted = slowly(graph, scores, 25)
    for n in (0, 1, 7, 25):
        found = scores.top(n_edges=n).edge_names()
        assert sorted(found) == sorted(wanted[:n])


def test_all_edges_of_a_component_graph_lead_to_the_output() -> None:
    graph, scores = build(*GRAPHS[0])
    assert scores.top(n_edges=10**6).n_edges == graph.n_edges
    assert (
        scores.top(n_edges=10).edge_names()
        != replace(scores, greedy=False).top(n_edges=10).edge_names()
    )


def test_only_numbers_of_edges_are_chosen() -> None:
    graph, scores = build(*GRAPHS[0])
    with pytest.raises(ValueError, match=r"of edges: ask for top\(n_edges="):
        scores.top(n_nodes=3)
    nodes = {name: torch.zeros(shape) for name, shape in graph.site_shapes.items()}
    with pytest.raises(ValueError, match="greedy selection chooses edges"):
        Scores(graph, nodes=nodes, greedy=True)
