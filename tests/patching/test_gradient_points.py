"""Gradients along paths, and by the rules of RelP: against slow oracles, and completeness."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.objectives import KLDivergence, Objective
from sparse_lens.patching import (
    BoundAblation,
    GradientPoints,
    answer_logits,
    bind,
    edge_effects,
    node_effects,
    patched,
)
from tests.patching import tiny
from tests.patching.attribution_oracle import Surprisal, slow_edge_effects
from tests.patching.tiny import difference

PROMPTS = tiny.prompts()
SHARES = (0.0, 1 / 3, 1.0)
MANY, MORE = (tuple((k + 0.5) / n for k in range(n)) for n in (12, 20))
MEAN = MeanAblation(tokens=tiny.prompts(seed=5).clean)
ORACLE = ["LN", "gated MLP", "parallel", "RMSPre", "attention only"]


@cache
def build(name: str) -> Any:
    return tiny.dense(name, dtype=torch.float64)


def loss(model: Any) -> float:
    """Of the model as it stands, summed over prompts."""
    with torch.no_grad():
        return float(Surprisal()(answer_logits(model, PROMPTS), PROMPTS).sum())


def effect_of(bound: BoundAblation, masks: Masks) -> float:
    """The change of the loss when the model runs with masks."""
    with patched(bound.model, masks, ablation=bound, prompts=PROMPTS):
        ablated = loss(bound.model)
    return ablated - loss(bound.model)


def agree(found: Tensor, wanted: Tensor) -> bool:
    return difference(found, wanted) < 1e-6 * float(wanted.abs().max())


@pytest.mark.parametrize("name", ORACLE)
def test_gradients_between_ablated_and_live_inputs(name: str) -> None:
    model = build(name)
    graph = ComponentGraph.from_model(model)
    bound = bind(model, graph, InterchangeAblation())
    found = edge_effects(bound, PROMPTS, Surprisal(), points=GradientPoints(SHARES))["edges"]
    each = [
        slow_edge_effects(model, PROMPTS, Surprisal(), share=share, moved=slice(0, 1))
        for share in SHARES
    ]
    assert agree(found * graph.edge_support["edges"], torch.stack(each).mean(0))


@pytest.mark.parametrize("name", ["LN", "parallel"])
def test_gradients_while_one_site_after_the_other_is_moved(name: str) -> None:
    model = build(name)
    graph = ComponentGraph.from_model(model)
    bound = bind(model, graph, InterchangeAblation())
    points = GradientPoints((0.0, 0.6), site_by_site=True)
    found = edge_effects(bound, PROMPTS, Surprisal(), points=points)["edges"]
    wanted = torch.zeros_like(found)
    for site, columns in graph.node_slices.items():
        if site != "logits":
            for share in points.shares:
                slow = slow_edge_effects(model, PROMPTS, Surprisal(), share=share, moved=columns)
                wanted[:, columns] += slow[:, columns] / 2
    assert agree(found * graph.edge_support["edges"], wanted)


@pytest.mark.parametrize("site_by_site", [False, True])
@pytest.mark.parametrize("kind", ["component", "channel"])
@pytest.mark.parametrize("objective", [Surprisal(), KLDivergence()], ids=["surprisal", "kl"])
@pytest.mark.parametrize("copies", [2, 5])
def test_points_that_share_a_pass(
    kind: str, site_by_site: bool, objective: Objective, copies: int
) -> None:
    model = build("LN")
    graph = {"component": ComponentGraph, "channel": ChannelGraph}[kind].from_model(model)
    bound = bind(model, graph, InterchangeAblation())
    points = GradientPoints((1.0, 0.7, 0.2, 0.0), site_by_site=site_by_site)
    for effects in (edge_effects, node_effects):
        wanted = effects(bound, PROMPTS, objective, points=points)
        found = effects(bound, PROMPTS, objective, points=points, copies=copies)
        assert all(agree(found[name], wanted[name]) for name in wanted)


def test_passes_of_points() -> None:
    points = GradientPoints((1.0, 0.7, 0.2, 0.0))
    assert list(points.together(1)) == [(1.0,), (0.7,), (0.2,), (0.0,)]
    assert list(points.together(2)) == [(1.0,), (0.7, 0.2), (0.0,)]
    by_site = GradientPoints(points.shares, site_by_site=True)
    assert list(by_site.together(3)) == [(1.0, 0.7, 0.2), (0.0,)]


@pytest.mark.parametrize("name", ORACLE[:4])
def test_relp(name: str) -> None:
    model = build(name)
    graph = ComponentGraph.from_model(model)
    bound = bind(model, graph, InterchangeAblation())
    found = edge_effects(bound, PROMPTS, Surprisal(), relp=True)["edges"]
    wanted = slow_edge_effects(model, PROMPTS, Surprisal(), relp=True)
    assert agree(found * graph.edge_support["edges"], wanted)
    plain = edge_effects(bound, PROMPTS, Surprisal())["edges"]
    assert not torch.allclose(found, plain, rtol=1e-2)


def test_relp_on_channels_of_a_model_without_norms_whose_neurons_are_all_on_is_eap() -> None:
    """There the ratio of every activation function is its slope."""
    model = tiny.dense("no norm", dtype=torch.float64, act_fn="relu")
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, ZeroAblation())
    for effects in (node_effects, edge_effects):
        found = effects(bound, PROMPTS, Surprisal(), relp=True)
        wanted = effects(bound, PROMPTS, Surprisal())
        assert all(agree(found[name], wanted[name]) for name in wanted if wanted[name].any())


def test_relp_refuses_what_it_has_no_rule_for() -> None:
    model = tiny.dense("LN", act_fn="solu_ln")
    bound = bind(model, ComponentGraph.from_model(model), ZeroAblation())
    with pytest.raises(ValueError, match="no rule for the activation 'solu_ln'"):
        edge_effects(bound, PROMPTS, Surprisal(), relp=True)


def test_edges_that_leave_the_embedding_add_up_to_the_corrupted_run() -> None:
    model = build("LN")
    graph = ComponentGraph.from_model(model)
    bound = bind(model, graph, InterchangeAblation())
    found = edge_effects(bound, PROMPTS, Surprisal(), points=GradientPoints(MANY))["edges"]
    with torch.no_grad():
        corrupted = float(Surprisal()(model(PROMPTS.corrupted)[:, -1], PROMPTS).sum())
    assert float(found[:, 0].sum()) == pytest.approx(corrupted - loss(model), rel=0.01)


@pytest.mark.parametrize("ablation", [MEAN, ZeroAblation()], ids=["mean", "zero"])
def test_edges_that_leave_the_embedding_add_up_to_its_ablation(ablation: Any) -> None:
    """Without norms, whose slope at a stream of zeros is too steep for a few steps."""
    model = tiny.dense("no norm", dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.5
    graph = ComponentGraph.from_model(model, split_embeddings=True)
    bound = bind(model, graph, ablation)
    found = edge_effects(bound, PROMPTS, Surprisal(), points=GradientPoints(MANY))["edges"]
    masks = Masks(graph, {"embed": torch.zeros(2)}, {})
    assert float(found[:, :2].sum()) == pytest.approx(effect_of(bound, masks), rel=0.01)


@pytest.mark.parametrize(("name", "ablation"), [("LN", InterchangeAblation()), ("OLMo 2", MEAN)])
def test_what_leaves_a_component_site_adds_up_to_its_ablation(name: str, ablation: Any) -> None:
    model = tiny.dense(name, dtype=torch.float64, n_layers=1)
    graph = ComponentGraph.from_model(model)
    bound = bind(model, graph, ablation)
    points = GradientPoints(MORE, site_by_site=True)
    found = node_effects(bound, PROMPTS, Surprisal(), points=points)
    for site, effects in found.items():
        masks = Masks(graph, {site: torch.zeros(len(effects))}, {})
        assert float(effects.sum()) == pytest.approx(effect_of(bound, masks), rel=0.01, abs=1e-3)


@pytest.mark.parametrize(
    "ablation", [InterchangeAblation(), MEAN, ZeroAblation()], ids=["interchange", "mean", "zero"]
)
def test_what_leaves_a_channel_site_adds_up_to_its_ablation(ablation: Any) -> None:
    model = tiny.sparse("sinks and bigram", dtype=torch.float64, afrac=None, n_layer=1)
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, ablation)
    points = GradientPoints(MANY, site_by_site=True)
    for site, effects in node_effects(bound, PROMPTS, Surprisal(), points=points).items():
        if site == "final_resid" and ablation == ZeroAblation():
            continue  # until all of it is gone the last norm undoes any scaling
        masks = Masks(graph, {site: torch.zeros(len(effects))}, {})
        assert float(effects.sum()) == pytest.approx(effect_of(bound, masks), rel=0.01, abs=1e-3)
    edges = edge_effects(bound, PROMPTS, Surprisal(), points=points)
    for source in ("attn_in", "v", "mlp_in", "mlp_post"):
        blocks = [block for block in edges if block.startswith(f"blocks.0.{source}->")]
        masks = Masks(graph, {}, {block: torch.zeros_like(edges[block]) for block in blocks})
        total = sum(float(edges[block].sum()) for block in blocks)
        assert total == pytest.approx(effect_of(bound, masks), rel=0.01, abs=1e-3)


@pytest.mark.parametrize("ablation", [InterchangeAblation(), ZeroAblation()], ids=["inter", "zero"])
def test_inputs_of_a_channel_graph_are_moved_to_the_corrupted_prompts(ablation: Any) -> None:
    """Whatever the ablation: against hooks of TransformerLens, at the middle of the path."""
    model = tiny.sparse("plain", dtype=torch.float64)
    graph = ChannelGraph.from_model(model)
    with torch.no_grad():
        live, other = (model.run_with_cache(t)[1] for t in (PROMPTS.clean, PROMPTS.corrupted))
        middle = (live["blocks.0.hook_resid_pre"] + other["blocks.0.hook_resid_pre"]) / 2
    found: dict[str, Tensor] = {}

    def note(value: Tensor, hook: Any) -> Tensor:
        found[hook.name] = value.clone()
        return found[hook.name]

    hooks: list[Any] = [("blocks.0.hook_resid_pre", lambda value, hook: middle)]
    for site in graph.sites.values():
        hooks += [(name, note) for name in (site.hook_name, site.input_hook_name) if name]
    with model.hooks(fwd_hooks=hooks):
        total = Surprisal()(answer_logits(model, PROMPTS), PROMPTS).sum()
    gradients = dict(zip(found, torch.autograd.grad(total, list(found.values())), strict=True))

    def change(site: str) -> Tensor:
        name = graph.sites[site].hook_name
        ablated = torch.zeros_like(live[name]) if ablation == ZeroAblation() else other[name]
        return (ablated - live[name]).reshape(-1, graph.sites[site].width)

    def gradient(name: str | None, like: Tensor) -> Tensor:
        return gradients[name or ""].reshape(len(like), -1)

    bound, points = bind(model, graph, ablation), GradientPoints((0.5,))
    for site, effects in node_effects(bound, PROMPTS, Surprisal(), points=points).items():
        wanted = change(site) * gradient(graph.sites[site].hook_name, change(site))
        assert difference(effects, wanted.sum(0)) < 1e-6
    weights = graph.edge_weights(model)
    for block, effects in edge_effects(bound, PROMPTS, Surprisal(), points=points).items():
        source, destination = block.split("->")
        if not source.endswith(".v"):  # which arrives through the attention pattern
            at = gradient(graph.sites[destination].input_hook_name, change(source))
            assert difference(effects, weights[block] * (at.T @ change(source))) < 1e-6


@pytest.mark.parametrize("shares", [(), (0.5, 1.5), (-0.1,)])
def test_shares_outside_of_the_path_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"shares in \[0, 1\]"):
        GradientPoints(shares)
