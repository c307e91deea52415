"""Exact attribution against circuits that lack one edge or one node, run one after the other."""

from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.objectives import KLDivergence
from sparse_lens.patching import (
    answer_logits,
    bind,
    exact_edge_effects,
    exact_node_effects,
    patched,
)
from tests.patching import tiny
from tests.patching.attribution_oracle import Surprisal

PROMPTS = tiny.prompts(padded=True)
MEAN = MeanAblation(tokens=tiny.prompts(seed=5).clean, per_position=True)
COMPONENT = [
    (tiny.dense, "LN", InterchangeAblation()),
    (tiny.dense, "grouped queries", MEAN),
    (tiny.dense, "OLMo 2", ZeroAblation()),
    (tiny.sparse, "all of it", InterchangeAblation()),
]
CHANNEL = [
    (tiny.dense, "LN", InterchangeAblation()),
    (tiny.dense, "clipped qkv", MEAN),
    (tiny.dense, "no norm", ZeroAblation()),
    (tiny.sparse, "all of it", InterchangeAblation()),
]


def loss(model: Any) -> float:
    with torch.no_grad():
        return float(Surprisal()(answer_logits(model, PROMPTS), PROMPTS).sum())


def some(n: int) -> list[int]:
    """A dozen of n."""
    return torch.linspace(0, n - 1, 12).round().long().unique().tolist()


def check(graph: Graph, bound: Any, effects: Any, *, of_nodes: bool) -> None:
    """Some of the effects of each block or site against circuits without that edge or node."""
    model, live = bound.model, loss(bound.model)
    for name, found in effects.items():
        kept = torch.ones(len(found), dtype=torch.bool) if of_nodes else graph.edge_support[name]
        places = kept.nonzero()
        for place in places[some(len(places))]:
            without = kept.clone()
            without[tuple(place)] = False
            if of_nodes:
                nodes = dict(Circuit.full(graph).node_masks) | {name: without}
                circuit = Circuit.from_node_masks(graph, nodes)
            else:
                circuit = Circuit.from_edge_masks(graph, dict(graph.edge_support) | {name: without})
            with patched(model, circuit, ablation=bound, prompts=PROMPTS):
                wanted = loss(model) - live
            assert float(found[tuple(place)]) == pytest.approx(wanted, abs=1e-6), (name, place)


@pytest.mark.parametrize(("make", "name", "ablation"), COMPONENT)
def test_component_graph(make: Any, name: str, ablation: Any) -> None:
    model = make(name, dtype=torch.float64)
    graph = ComponentGraph.from_model(model)
    bound = bind(model, graph, ablation)
    edges = exact_edge_effects(bound, PROMPTS, Surprisal(), rows=100)
    check(graph, bound, edges, of_nodes=False)
    check(graph, bound, exact_node_effects(bound, PROMPTS, Surprisal()), of_nodes=True)


@pytest.mark.parametrize(("make", "name", "ablation"), CHANNEL)
def test_channel_graph(make: Any, name: str, ablation: Any) -> None:
    small = {"n_layer": 1} if make is tiny.sparse else {"n_layers": 1, "d_model": 8, "d_mlp": 8}
    model = make(name, dtype=torch.float64, **small)
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, ablation)
    edges = exact_edge_effects(bound, PROMPTS, Surprisal(), rows=600)
    check(graph, bound, edges, of_nodes=False)
    nodes = exact_node_effects(bound, PROMPTS, Surprisal(), rows=30)
    check(graph, bound, nodes, of_nodes=True)


def test_how_many_cuts_are_in_a_pass_does_not_matter() -> None:
    model = tiny.dense("LN", n_layers=1)
    graph = ComponentGraph.from_model(model)
    bound = bind(model, graph, InterchangeAblation())
    one, many = (
        exact_edge_effects(bound, PROMPTS, KLDivergence(), rows=rows)["edges"] for rows in (1, 50)
    )
    assert torch.allclose(one, many, atol=1e-5)
    assert bool((one[graph.edge_support["edges"]] > 0).any())
