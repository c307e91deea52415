"""Circuits whose norms divide by what they divide by in the whole model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_lens.ablation import InterchangeAblation, ZeroAblation
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching import patched, reference
from tests.patching import tiny
from tests.patching.tiny import TOLERANCE, difference

PROMPTS = tiny.prompts()
DENSE = ["LN", "LNPre", "RMS", "RMSPre", "parallel", "grouped queries", "Gemma 2", "OLMo 2"]
SPARSE = ["plain", "LayerNorm", "positions", "positions, no AbsTopK", "all of it"]
MODELS = [(tiny.dense, name) for name in DENSE] + [(tiny.sparse, name) for name in SPARSE]
CHANNEL = [(make, name) for make, name in MODELS if name not in tiny.DENSE] + [
    (tiny.dense, name) for name in DENSE if name in tiny.CHANNEL_DENSE
]
each_model = pytest.mark.parametrize(("make", "name"), MODELS, ids=[n for _, n in MODELS])


def scales_by_run_with_cache(model: Any) -> dict[str, Tensor]:
    names = [n for n in model.hook_dict if n.endswith("hook_scale") and ".attn." not in n]
    return dict(model.run_with_cache(PROMPTS.clean, names_filter=names)[1])


@contextmanager
def norms_that_find(model: Any, scales: dict[str, Tensor]) -> Iterator[None]:
    """Hooks of TransformerLens that put scales in place of those that norms find."""

    def put(found: Tensor, hook: Any) -> Tensor:
        scale = scales[hook.name]
        return (scale.unsqueeze(2) if found.ndim > scale.ndim else scale).expand_as(found)

    with model.hooks(fwd_hooks=[(name, put) for name in scales]):
        yield


@each_model
@torch.no_grad()
def test_edge_circuits_of_component_graphs(make: Any, name: str) -> None:
    model = make(name, dtype=torch.float64)
    graph = ComponentGraph.from_model(model)
    scales = scales_by_run_with_cache(model)
    corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    circuit = tiny.random_edges(graph, 0.5, seed=0)
    for ablation, values in ((InterchangeAblation(), corrupted), (ZeroAblation(), None)):
        with norms_that_find(model, scales):
            expected = reference.run_circuit(model, circuit, PROMPTS.clean, ablated=values)
        run = {"ablation": ablation, "prompts": PROMPTS}
        with patched(model, circuit, freeze_norm_scales=True, **run):
            found = model(PROMPTS.clean)
        with patched(model, circuit, **run):
            not_frozen = model(PROMPTS.clean)
        assert difference(found, expected) < TOLERANCE
        assert difference(not_frozen, expected) > 1e-3


@pytest.mark.parametrize(("make", "name"), CHANNEL, ids=[n for _, n in CHANNEL])
@torch.no_grad()
def test_circuits_of_channel_graphs(make: Any, name: str) -> None:
    model = make(name, dtype=torch.float64)
    graph = ChannelGraph.from_model(model)
    scales = scales_by_run_with_cache(model)
    run = {"ablation": InterchangeAblation(), "prompts": PROMPTS}
    for circuit in (tiny.random_nodes(graph, 0.6, 0), tiny.random_edges(graph, 0.6, 0)):
        with patched(model, circuit, **run), norms_that_find(model, scales):
            expected = model(PROMPTS.clean)
        with patched(model, circuit, freeze_norm_scales=True, **run):
            found = model(PROMPTS.clean)
        assert difference(found, expected) < TOLERANCE


@pytest.mark.parametrize("kind", [ComponentGraph, ChannelGraph])
def test_the_whole_model_is_the_whole_model(kind: Any) -> None:
    model = tiny.sparse("all of it", dtype=torch.float64)
    circuit = Circuit.full(kind.from_model(model))
    frozen = {"prompts": PROMPTS, "freeze_norm_scales": True}
    with patched(model, circuit, ablation=ZeroAblation(), **frozen):
        found = model(PROMPTS.clean)
    assert difference(found, model(PROMPTS.clean)) < TOLERANCE


@pytest.mark.parametrize("name", ["LN", "RMS", "Gemma 2"])
def test_gradients_of_masks(name: str) -> None:
    """As autograd finds them where every module is run by hooks of TransformerLens."""
    model = tiny.dense(name, dtype=torch.float64).requires_grad_(False)
    graph = ComponentGraph.from_model(model)
    scales = scales_by_run_with_cache(model)
    generator = torch.Generator().manual_seed(0)
    support = graph.edge_support["edges"]
    start = torch.rand(support.shape, generator=generator, dtype=torch.float64) * support
    direction = torch.randn(3, 6, tiny.VOCAB, generator=generator, dtype=torch.float64)

    mine, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    masks = Masks(graph, {}, {"edges": mine})
    with patched(model, masks, ablation=ZeroAblation(), prompts=PROMPTS, freeze_norm_scales=True):
        (model(PROMPTS.clean) * direction).sum().backward()
    with norms_that_find(model, scales):
        same_masks = Masks(graph, {}, {"edges": theirs})
        logits = reference.run_circuit(model, same_masks, PROMPTS.clean)
        (logits * direction).sum().backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    assert difference(mine.grad, theirs.grad * support) < 1e-8


def test_other_prompts_than_those_given_are_refused() -> None:
    model = tiny.dense("LN")
    circuit = tiny.random_nodes(ComponentGraph.from_model(model), 0.5, 0)
    frozen = {"ablation": ZeroAblation(), "freeze_norm_scales": True}
    message = r"ln1.hook_scale has shape \[3, 6, 1\].*\[2, 6, 1\]"
    with (
        patched(model, circuit, prompts=PROMPTS, **frozen),
        pytest.raises(ValueError, match=message),
    ):
        model(PROMPTS.clean[:2])
    with pytest.raises(ValueError, match="pass prompts="), patched(model, circuit, **frozen):
        pass


def test_a_model_without_norms_is_refused() -> None:
    model = tiny.dense("no norm")
    circuit = tiny.random_nodes(ComponentGraph.from_model(model), 0.5, 0)
    with (
        pytest.raises(ValueError, match="no norms"),
        patched(model, circuit, ablation=ZeroAblation(), prompts=PROMPTS, freeze_norm_scales=True),
    ):
        pass
