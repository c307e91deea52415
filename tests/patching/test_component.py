"""Circuits of component graphs against the slow reference."""

from functools import cache
from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching import patched, reference, run_circuit
from tests.patching import tiny
from tests.patching.tiny import TOLERANCE, difference, each_component_model

PROMPTS = tiny.prompts()


@cache
def build(make: Any, name: str, **options: Any) -> tuple[Any, ComponentGraph]:
    """A model that the tests share: they leave it as they found it."""
    model = make(name, dtype=torch.float64)
    return model, ComponentGraph.from_model(model, **options)


@each_component_model
@torch.no_grad()
def test_edge_circuits(make: Any, name: str) -> None:
    model, graph = build(make, name)
    corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    for seed, share in enumerate((0.3, 0.6, 0.95)):
        circuit = tiny.random_edges(graph, share, seed)
        for ablation, values in ((InterchangeAblation(), corrupted), (ZeroAblation(), None)):
            expected = reference.run_circuit(model, circuit, PROMPTS.clean, ablated=values)
            found = run_circuit(model, circuit, PROMPTS, ablation=ablation)
            assert difference(found, expected) < TOLERANCE, (share, ablation)


@each_component_model
@torch.no_grad()
def test_node_circuits_are_the_circuits_of_their_implied_edges(make: Any, name: str) -> None:
    model, graph = build(make, name)
    corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    without_logits = Circuit.from_node_names(graph, list(graph.node_names())[:-1])
    random = [tiny.random_nodes(graph, share, seed) for seed, share in enumerate((0.4, 0.8))]
    for circuit in (*random, without_logits):
        edges = Circuit.from_edge_masks(graph, {"edges": circuit.edge_mask("edges")})
        expected = reference.run_circuit(model, edges, PROMPTS.clean, ablated=corrupted)
        assert torch.equal(
            reference.run_circuit(model, circuit, PROMPTS.clean, ablated=corrupted), expected
        )
        for same_circuit in (circuit, edges):
            found = run_circuit(model, same_circuit, PROMPTS, ablation=InterchangeAblation())
            assert difference(found, expected) < TOLERANCE


@each_component_model
@torch.no_grad()
def test_full_circuits_are_the_model(make: Any, name: str) -> None:
    model, graph = build(make, name)
    full = run_circuit(model, Circuit.full(graph), PROMPTS, ablation=InterchangeAblation())
    assert torch.equal(full, model(PROMPTS.clean))
    every_edge = Circuit.from_edge_masks(graph, dict(graph.edge_support))
    full = run_circuit(model, every_edge, PROMPTS, ablation=ZeroAblation())
    assert torch.equal(full, model(PROMPTS.clean))


@each_component_model
@torch.no_grad()
def test_means_pooled_and_per_position(make: Any, name: str) -> None:
    model, graph = build(make, name)
    tokens = tiny.prompts(5, 6, seed=3).clean
    circuit = tiny.random_edges(graph, 0.5, 1)
    values = tiny.activations(model, graph, tokens)
    for per_position, axes in ((False, (1, 2)), (True, (1,))):
        means = {site: of_site.mean(axes) for site, of_site in values.items()}
        expected = reference.run_circuit(model, circuit, PROMPTS.clean, ablated=means)
        ablation = MeanAblation(tokens=tokens, per_position=per_position)
        found = run_circuit(model, circuit, PROMPTS.clean, ablation=ablation)
        assert difference(found, expected) < TOLERANCE
        given = MeanAblation(means=means)
        found = run_circuit(model, circuit, PROMPTS.clean, ablation=given)
        assert difference(found, expected) < TOLERANCE


@each_component_model
@torch.no_grad()
def test_soft_masks(make: Any, name: str) -> None:
    model, graph = build(make, name)
    corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    nodes, edges = tiny.random_masks(graph, 0, torch.float64)
    masks = Masks(graph, nodes, edges)
    expected = reference.run_circuit(model, masks, PROMPTS.clean, ablated=corrupted)
    found = run_circuit(model, masks, PROMPTS, ablation=InterchangeAblation())
    assert difference(found, expected) < TOLERANCE
    constant = Masks(
        graph,
        {name: gate.detach() for name, gate in nodes.items()},
        {name: mask.detach() for name, mask in edges.items()},
    )
    found = run_circuit(model, constant, PROMPTS, ablation=InterchangeAblation())
    assert difference(found, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["LN", "no norm", "parallel"])
@torch.no_grad()
def test_split_embeddings(name: str) -> None:
    model, graph = build(tiny.dense, name, split_embeddings=True)
    corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    for seed in range(3):
        circuit = tiny.random_edges(graph, 0.5, seed)
        expected = reference.run_circuit(model, circuit, PROMPTS.clean, ablated=corrupted)
        found = run_circuit(model, circuit, PROMPTS, ablation=InterchangeAblation())
        assert difference(found, expected) < TOLERANCE
    for pruned in ("embed", "pos"):
        names = [node for node in graph.node_names() if node != pruned]
        circuit = Circuit.from_node_names(graph, names)
        expected = reference.run_circuit(model, circuit, PROMPTS.clean, ablated=corrupted)
        found = run_circuit(model, circuit, PROMPTS, ablation=InterchangeAblation())
        assert difference(found, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["LN", "grouped queries"])
def test_weights_get_their_gradients_where_they_need_them(name: str) -> None:
    model, graph = build(tiny.dense, name)
    circuit = tiny.random_edges(graph, 0.5, 0)
    with torch.no_grad():
        corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    expected = torch.autograd.grad(
        reference.run_circuit(model, circuit, PROMPTS.clean, ablated=corrupted).pow(2).sum(),
        list(model.parameters()),
        allow_unused=True,
    )
    with patched(model, circuit, ablation=InterchangeAblation(), prompts=PROMPTS):
        loss = model(PROMPTS.clean).pow(2).sum()
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for (key, _), a, b in zip(model.named_parameters(), found, expected, strict=True):
        a, b = (torch.zeros(1) if x is None else x for x in (a, b))
        assert difference(a, b) < TOLERANCE * max(1.0, float(b.abs().max())), key


def test_grouped_heads_that_cannot_be_separated() -> None:
    """One norm over the keys of all key heads has no meaning for the keys of query heads."""
    model = tiny.dense("OLMo 2", n_key_value_heads=2)
    graph = ComponentGraph.from_model(model)
    nodes = tiny.random_nodes(graph, 1.0, 0)
    run_circuit(model, nodes, PROMPTS, ablation=InterchangeAblation())
    with pytest.raises(ValueError, match="cannot be cut one by one"):
        run_circuit(
            model, tiny.random_edges(graph, 0.5, 0), PROMPTS, ablation=InterchangeAblation()
        )
