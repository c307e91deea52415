"""Circuits of channel graphs against the slow reference."""

from functools import cache
from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph
from sparse_lens.masks import Masks
from sparse_lens.patching import patched, reference, run_circuit
from tests.patching import tiny
from tests.patching.tiny import TOLERANCE, difference, each_channel_model

PROMPTS = tiny.prompts()


@cache
def build(make: Any, name: str, **options: Any) -> tuple[Any, ChannelGraph]:
    """A model that the tests share: they leave it as they found it."""
    model = make(name, dtype=torch.float64)
    return model, ChannelGraph.from_model(model, **options)


@each_channel_model
@torch.no_grad()
def test_node_and_edge_circuits(make: Any, name: str) -> None:
    model, graph = build(make, name)
    corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    circuits = (tiny.random_nodes(graph, 0.8, 0), tiny.random_edges(graph, 0.7, 1))
    for circuit in circuits:
        for ablation, values in ((InterchangeAblation(), corrupted), (ZeroAblation(), None)):
            expected = reference.run_circuit(model, circuit, PROMPTS.clean, ablated=values)
            found = run_circuit(model, circuit, PROMPTS, ablation=ablation)
            assert difference(found, expected) < TOLERANCE, (circuit, ablation)


@each_channel_model
@torch.no_grad()
def test_full_circuits_are_the_model(make: Any, name: str) -> None:
    model, graph = build(make, name)
    every_edge = Circuit.from_edge_masks(graph, dict(graph.edge_support))
    for circuit in (Circuit.full(graph), every_edge):
        for ablation in (InterchangeAblation(), ZeroAblation()):
            found = run_circuit(model, circuit, PROMPTS, ablation=ablation)
            if circuit.edge_masks is None:
                assert torch.equal(found, model(PROMPTS.clean))
            # A node without any nonzero weight is no end of an edge, so it is pruned.
            elif circuit.n_nodes == graph.n_nodes:
                assert difference(found, model(PROMPTS.clean)) < TOLERANCE


@each_channel_model
@torch.no_grad()
def test_means_pooled_and_per_position(make: Any, name: str) -> None:
    model, graph = build(make, name)
    tokens = tiny.prompts(5, 6, seed=3).clean
    live = tiny.activations(model, graph, tokens)
    for circuit in (tiny.random_nodes(graph, 0.8, 2), tiny.random_edges(graph, 0.7, 2)):
        for per_position, axes in ((False, (0, 1)), (True, (0,))):
            means = {site: value.mean(axes) for site, value in live.items()}
            expected = reference.run_circuit(model, circuit, PROMPTS.clean, ablated=means)
            ablation = MeanAblation(tokens=tokens, per_position=per_position)
            found = run_circuit(model, circuit, PROMPTS.clean, ablation=ablation)
            assert difference(found, expected) < TOLERANCE
            given = MeanAblation(means=means)
            found = run_circuit(model, circuit, PROMPTS.clean, ablation=given)
            assert difference(found, expected) < TOLERANCE


@each_channel_model
def test_soft_masks_and_their_gradients(make: Any, name: str) -> None:
    model, graph = build(make, name)
    with torch.no_grad():
        corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    nodes, edges = tiny.random_masks(graph, 0, torch.float64)
    leaves = [*nodes.values(), *edges.values()]
    for ablation, values in ((InterchangeAblation(), corrupted), (ZeroAblation(), None)):
        masks = Masks(graph, nodes, edges)
        expected = reference.run_circuit(model, masks, PROMPTS.clean, ablated=values)
        with patched(model, masks, ablation=ablation, prompts=PROMPTS):
            found = model(PROMPTS.clean)
        assert difference(found, expected) < TOLERANCE
        target = torch.randn_like(found)
        wanted = torch.autograd.grad((expected * target).sum(), leaves)
        got = torch.autograd.grad((found * target).sum(), leaves)
        for a, b in zip(got, wanted, strict=True):
            assert difference(a, b) < TOLERANCE * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("name", ["plain", "all of it"])
@torch.no_grad()
def test_cutting_edges_one_by_one(name: str) -> None:
    """One edge at a time, without any matrix: the weight's share is taken out of the sum."""
    model, graph = build(tiny.sparse, name)
    corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    for block, support in graph.edge_support.items():
        dst, src = (int(x[0]) for x in support.nonzero(as_tuple=True))
        edges = {b: s.clone() for b, s in graph.edge_support.items()}
        edges[block][dst, src] = False
        circuit = Circuit.from_edge_masks(graph, edges)
        expected = reference.run_circuit(model, circuit, PROMPTS.clean, ablated=corrupted)
        found = run_circuit(model, circuit, PROMPTS, ablation=InterchangeAblation())
        assert difference(found, expected) < TOLERANCE, block


@pytest.mark.parametrize(("make", "name"), [(tiny.dense, "LN"), (tiny.sparse, "all of it")])
@torch.no_grad()
def test_without_final_resid(make: Any, name: str) -> None:
    model, graph = build(make, name, final_resid=False)
    circuit = tiny.random_nodes(graph, 0.7, 0)
    corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    expected = reference.run_circuit(model, circuit, PROMPTS.clean, ablated=corrupted)
    found = run_circuit(model, circuit, PROMPTS, ablation=InterchangeAblation())
    assert difference(found, expected) < TOLERANCE
