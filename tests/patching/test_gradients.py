"""Attribution against gradients of masks, and these against plain autograd."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.objectives import NegatedLogitDifference, Objective, TaskLoss
from sparse_lens.patching import (
    answer_logits,
    bind,
    edge_effects,
    frozen,
    node_effects,
    patched,
    reference,
)
from tests.patching import tiny
from tests.patching.tiny import TOLERANCE, difference, each_channel_model, each_component_model

PROMPTS = tiny.prompts(padded=True)
ABLATIONS = [
    InterchangeAblation(),
    ZeroAblation(),
    MeanAblation(tokens=tiny.prompts(seed=5).clean),
    MeanAblation(tokens=tiny.prompts(seed=5).clean, per_position=True),
]
CASES = list(zip(ABLATIONS, (TaskLoss(), NegatedLogitDifference()) * 2, strict=True))


@cache
def build(make: Any, name: str) -> Any:
    return make(name, dtype=torch.float64)


def mask_gradients(
    model: Any, masks: Masks, leaves: list[Tensor], ablation: Any, objective: Objective
) -> tuple[Tensor, ...]:
    """Gradients of the summed objective with respect to masks."""
    with frozen(model), patched(model, masks, ablation=ablation, prompts=PROMPTS):
        loss = objective(answer_logits(model, PROMPTS), PROMPTS, None).sum()
    return torch.autograd.grad(loss, leaves)


@each_component_model
def test_edge_attribution_is_minus_the_gradient_of_edge_masks_at_one(make: Any, name: str) -> None:
    model = build(make, name)
    graph = ComponentGraph.from_model(model)
    for ablation, objective in CASES:
        bound = bind(model, graph, ablation)
        effects = edge_effects(bound, PROMPTS, objective)["edges"]
        mask = torch.ones(graph.n_readers, graph.n_writers, dtype=torch.float64).requires_grad_()
        masks = Masks(graph, {}, {"edges": mask})
        (gradient,) = mask_gradients(model, masks, [mask], bound, objective)
        support = graph.edge_support["edges"]
        assert difference(effects * support, -gradient) < 1e-6 * float(gradient.abs().max())


@each_component_model
def test_gradients_of_soft_component_masks(make: Any, name: str) -> None:
    """Against autograd through the slow reference, at masks inside (0, 1)."""
    model = build(make, name)
    graph = ComponentGraph.from_model(model)
    with torch.no_grad():
        corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    nodes, edges = tiny.random_masks(graph, 0, torch.float64)
    leaves = [*nodes.values(), *edges.values()]
    masks = Masks(graph, nodes, edges)
    target = torch.randn(*PROMPTS.clean.shape, tiny.VOCAB, dtype=torch.float64)
    with frozen(model):
        expected = reference.run_circuit(model, masks, PROMPTS.clean, ablated=corrupted)
        wanted = torch.autograd.grad((expected * target).sum(), leaves)
        with patched(model, masks, ablation=InterchangeAblation(), prompts=PROMPTS):
            found = model(PROMPTS.clean)
        got = torch.autograd.grad((found * target).sum(), leaves)
    assert difference(found, expected) < TOLERANCE
    for leaf, a, b in zip((*nodes, *edges), got, wanted, strict=True):
        assert difference(a, b) < TOLERANCE * max(1.0, float(b.abs().max())), leaf


@pytest.mark.parametrize("name", ["LN", "OLMo 2", "Gemma 2", "parallel"])
def test_sum_over_outgoing_edges_is_minus_the_gradient_of_component_nodes(name: str) -> None:
    model = build(tiny.dense, name)
    graph = ComponentGraph.from_model(model)
    bound = bind(model, graph, InterchangeAblation())
    effects = node_effects(bound, PROMPTS, TaskLoss())
    nodes = torch.ones(graph.n_nodes, dtype=torch.float64).requires_grad_()
    masks = Masks(graph, graph.unflatten(nodes), {})
    (gradient,) = mask_gradients(model, masks, [nodes], bound, TaskLoss())
    found = torch.cat(list(effects.values()))
    assert difference(found, -gradient[:-1]) < 1e-6 * float(gradient.abs().max())


@each_channel_model
def test_node_attribution_is_minus_the_gradient_of_node_masks_at_one(make: Any, name: str) -> None:
    model = build(make, name)
    graph = ChannelGraph.from_model(model)
    for ablation, objective in CASES:
        bound = bind(model, graph, ablation)
        effects = graph.flatten(node_effects(bound, PROMPTS, objective))
        nodes = torch.ones(graph.n_nodes, dtype=torch.float64).requires_grad_()
        masks = Masks(graph, graph.unflatten(nodes), {})
        (gradient,) = mask_gradients(model, masks, [nodes], bound, objective)
        assert difference(effects, -gradient) < 1e-6 * float(gradient.abs().max())


@each_channel_model
def test_weight_attribution_is_minus_the_gradient_of_edge_masks_at_one(
    make: Any, name: str
) -> None:
    model = build(make, name)
    graph = ChannelGraph.from_model(model)
    for ablation, objective in CASES[:: 1 if name in ("LN", "clipped qkv", "plain") else 3]:
        bound = bind(model, graph, ablation)
        effects = edge_effects(bound, PROMPTS, objective)
        edges = {
            block: torch.ones(shape, dtype=torch.float64).requires_grad_()
            for block, shape in graph.block_shapes.items()
        }
        masks = Masks(graph, {}, edges)
        gradients = mask_gradients(model, masks, list(edges.values()), bound, objective)
        largest = max(float(gradient.abs().max()) for gradient in gradients)
        for block, gradient in zip(edges, gradients, strict=True):
            assert difference(effects[block], -gradient) < 1e-6 * largest, block


@pytest.mark.parametrize("name", ["LN", "LNPre", "RMS", "no norm"])
def test_effects_of_channels_in_a_bfloat16_model(name: str) -> None:
    """Norms hold float32 there, and what they feed bfloat16."""
    exact, model = build(tiny.dense, name), tiny.dense(name, dtype=torch.bfloat16)
    for effects in (edge_effects, node_effects):
        expected, found = (
            effects(bind(m, ChannelGraph.from_model(m), InterchangeAblation()), PROMPTS, TaskLoss())
            for m in (exact, model)
        )
        assert {values.dtype for values in found.values()} == {torch.float32}
        largest = max(float(values.abs().max()) for values in expected.values())
        for part in expected:
            assert difference(found[part], expected[part]) < 0.15 * largest, part


def test_attribution_ignores_an_outer_circuit_and_leaves_gradients_alone() -> None:
    model = build(tiny.dense, "LN")
    for make in (ComponentGraph, ChannelGraph):
        graph = make.from_model(model)
        bound = bind(model, graph, ZeroAblation())
        for effects in (edge_effects, node_effects):
            alone = effects(bound, PROMPTS, TaskLoss())
            with patched(model, tiny.random_nodes(graph, 0.5, 0), ablation=ZeroAblation()):
                inside = effects(bound, PROMPTS, TaskLoss())
            assert all(torch.equal(alone[name], inside[name]) for name in alone)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
