"""Attention patterns of a circuit beside the model's, against products of q and k by hand."""

import math
from typing import Any

import pytest

from sparse_lens.ablation import MeanAblation
from sparse_lens.circuit import Circuit
from sparse_lens.evals.questions import pattern_agreement
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.patching import bind, circuit_activations, patched
from tests import planted
from tests.evals import toy_comparison as toy
from tests.graphs.tiny import random_edge_circuit, random_node_circuit
from tests.patching import tiny

PROMPTS = toy.prompts(5, 9)
POSITIONS = PROMPTS.answer_positions.tolist()


def slow_pattern(q: Any, k: Any, query: int, sink: float | None) -> list[float]:
    """Softmax of the scaled products of a query with the keys up to it; the rest is the sink's."""
    products = [
        sum(a * b for a, b in zip(q[query], k[key], strict=True)) / math.sqrt(len(q[query]))
        for key in range(query + 1)
    ]
    weights = [math.exp(product) for product in products]
    total = sum(weights) + (0 if sink is None else math.exp(sink))
    pattern = [weight / total for weight in weights]
    return [*pattern, 1 - sum(pattern)]


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("make", [random_node_circuit, random_edge_circuit])
def test_distances_are_those_of_softmaxed_products(make: Any, sink: bool) -> None:
    model = toy.model(n_layer=2, sink=sink)
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, MeanAblation())
    circuit = make(graph, 0.3, seed=2)
    found = pattern_agreement(bound, circuit, PROMPTS, batch_size=4)
    full = circuit_activations(bound, Circuit.full(graph), PROMPTS)
    own = circuit_activations(bound, circuit, PROMPTS)
    assert found.heads
    for row, (layer, head) in enumerate(found.heads):
        attn: Any = model.blocks[layer].attn
        at_sink = float(attn.sinks[head].detach()) if sink else None
        channels = slice(head * graph.d_head, (head + 1) * graph.d_head)
        for i, query in enumerate(POSITIONS):
            patterns = []
            for values in (full, own):
                q, k = (values[f"blocks.{layer}.{x}"][i, :, channels].tolist() for x in "qk")
                patterns.append(slow_pattern(q, k, query, at_sink))
            of_model, of_circuit = patterns
            uniform = [1 / (query + 1)] * (query + 1) + [0.0]
            pairs = list(zip(of_model, of_circuit, uniform, strict=True))
            distance = sum(abs(a - b) for a, b, _ in pairs) / 2
            uniform_distance = sum(abs(a - c) for a, _, c in pairs) / 2
            assert float(found.distance[row, i]) == pytest.approx(distance, abs=1e-5)
            assert float(found.uniform_distance[row, i]) == pytest.approx(
                uniform_distance, abs=1e-5
            )
            tops = [max(range(len(p)), key=p.__getitem__) for p in (of_model, of_circuit)]
            assert bool(found.same_top[row, i]) == (tops[0] == tops[1])
    assert float(found.distance.max()) > 0.05


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
def test_heads_are_those_with_a_part_in_the_circuit(graph_of: Any) -> None:
    model = toy.model(n_layer=2)
    graph = graph_of(model)
    bound = bind(model, graph, MeanAblation())
    if graph.kind == "channel":
        names = ["blocks.0.v:4", "blocks.1.q:0", "blocks.1.k:1", "blocks.0.mlp_post:2"]
        circuit = Circuit.from_node_names(graph, names)
        expected = ((0, 1), (1, 0))
    else:
        # a1.h0 is kept, but leads nowhere.
        edges = ["input->a0.h1<k>", "a0.h1->m1", "m1->logits", "input->a1.h0<q>"]
        circuit = Circuit.from_edge_names(graph, edges)
        expected = ((0, 1),)
    assert pattern_agreement(bound, circuit, PROMPTS).heads == expected
    assert pattern_agreement(bound, Circuit.empty(graph), PROMPTS).heads == ()


@pytest.mark.parametrize("name", ["LN", "grouped queries", "local attention", "sinks"])
def test_patterns_on_the_component_graph_are_those_of_single_prompts(name: str) -> None:
    model = tiny.dense(name)
    prompts = tiny.prompts(4, padded=True)
    graph = ComponentGraph.from_model(model)
    circuit = random_edge_circuit(graph, 0.6, seed=0)
    bound = bind(model, graph, MeanAblation(tokens=prompts.corrupted))
    found = pattern_agreement(bound, circuit, prompts, batch_size=3)
    assert len(found.heads) > 4
    for i, position in enumerate(prompts.answer_positions.tolist()):
        tokens = prompts.clean[i : i + 1, : position + 1]
        _, full = model.run_with_cache(tokens)
        with patched(model, circuit, ablation=bound):
            _, own = model.run_with_cache(tokens)
        for row, (layer, head) in enumerate(found.heads):
            of_model, of_circuit = (
                cache[f"blocks.{layer}.attn.hook_pattern"][0, head, position]
                for cache in (full, own)
            )
            moved = float((of_model - of_circuit).clamp(min=0).sum())
            at_sink = float(of_circuit.sum() - of_model.sum())
            assert float(found.distance[row, i]) == pytest.approx(
                moved + max(0.0, at_sink), abs=1e-5
            )


@pytest.mark.parametrize("name", ["dense, component, mean", "sparse, channel, mean"])
def test_planted_heads_attend_as_in_the_model_unless_their_aim_is_ablated(name: str) -> None:
    problem = planted.problems()[name]
    bound = bind(problem.model, problem.graph, problem.ablation)
    prompts = planted.task().split("held_out")
    right = pattern_agreement(bound, problem.circuit, prompts)
    assert right.heads == ((0, 1), (0, 3), (1, 2))
    assert float(right.distance.mean()) < 0.05
    # Only the head of layer 1 acts at the answer position.
    assert float(right.same_top[2].float().mean()) == 1
    assert float(right.uniform_distance[2].mean()) == pytest.approx(0.75, abs=0.08)
    carrying = planted.problems()[name.replace("mean", "interchange")].circuit
    wrong = pattern_agreement(bound, carrying, prompts)
    assert float(wrong.distance[2].mean()) > 0.6
