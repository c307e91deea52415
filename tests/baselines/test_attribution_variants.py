"""The variants of attribution patching as methods: reference numbers, agreement, options."""

import json
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.baselines.attribution import AttributionPatching, Estimator
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference, Objective
from sparse_lens.task import Prompts, Task
from tests.patching import tiny

ESTIMATORS = get_args(Estimator)
# Here all is computed in float64; what is left is that the references were computed in float32.
REFERENCES = {
    "eap": (AttributionPatching(NegatedLogitDifference()), 2e-6),
    "eap_ig_inputs": (
        AttributionPatching(NegatedLogitDifference(), estimator="eap-ig-inputs"),
        1.5e-6,
    ),
    "eap_ig_inputs_kl": (AttributionPatching(KLDivergence(), estimator="eap-ig-inputs"), 3e-6),
    "clean_corrupted": (
        AttributionPatching(NegatedLogitDifference(), estimator="clean-corrupted"),
        2e-6,
    ),
    "exact": (AttributionPatching(NegatedLogitDifference(), estimator="exact"), 6e-6),
}


class Projection(Objective):
    """Linear in the logits, in their own precision."""

    def __call__(self, logits: Any, prompts: Prompts, full_logits: Any = None) -> Tensor:
        return logits @ torch.linspace(-1, 1, logits.shape[-1], dtype=logits.dtype)


@cache
def linear_model() -> Any:
    """Every neuron is on, and every pattern constant: the logits are linear in each edge."""
    model: Any = tiny.dense(
        "no norm", dtype=torch.float64, act_fn="relu", d_model=8, d_mlp=6, n_heads=2, n_ctx=6
    )
    with torch.no_grad():
        for block in model.blocks:
            for name in ("W_Q", "W_K", "b_Q", "b_K"):
                getattr(block.attn, name).zero_()
            block.mlp.b_in.fill_(100)
            block.mlp.W_out.mul_(1e-3)
    return model


def scores(graph: Graph, model: Any, method: AttributionPatching, **options: Any) -> dict:
    """By name."""
    ablation = options.pop("ablation", InterchangeAblation())
    task = Task("tiny", options.pop("prompts", tiny.prompts()))
    return method.discover(model, graph, task, ablation=ablation).scores.by_name()


@pytest.mark.parametrize("name", ["ln_gelu", "parallel_ln"])
@pytest.mark.parametrize("kind", REFERENCES)
def test_component_graph_references(fixtures: Path, name: str, kind: str) -> None:
    values = json.loads((fixtures / "component_graph" / f"{name}.json").read_text())
    known = {key: value for key, value in values["config"].items() if key != "n_params"}
    known["dtype"] = torch.float64
    model = HookedTransformer(HookedTransformerConfig(**known))
    weights = load_file(fixtures / "component_graph" / f"{name}.safetensors")
    model.load_state_dict(weights, strict=False)
    answers, distractors = torch.tensor(values["labels"]).T
    clean, corrupted = (torch.tensor(values[key]) for key in ("clean", "corrupt"))
    prompts = Prompts(clean=clean, corrupted=corrupted, answers=answers, distractors=distractors)
    method, tolerance = REFERENCES[kind]
    found = scores(ComponentGraph.from_model(model), model, method, prompts=prompts)
    wanted = values["scores"][kind]
    assert found.keys() == wanted.keys()
    largest = max(map(abs, wanted.values()))
    assert max(abs(found[edge] - wanted[edge]) for edge in wanted) < tolerance * largest


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (ComponentGraph, {}),
        (ComponentGraph, {"nodes": True}),
        (ChannelGraph, {}),
        (ChannelGraph, {"edges": True}),
    ],
)
@pytest.mark.parametrize(
    "ablation",
    [InterchangeAblation(), ZeroAblation(), MeanAblation(tokens=tiny.prompts(seed=5).clean)],
    ids=["interchange", "zero", "mean"],
)
def test_all_agree_on_a_linear_model(make: Any, options: dict, ablation: Any) -> None:
    model = linear_model()
    graph = make.from_model(model)
    found = [
        scores(
            graph,
            model,
            AttributionPatching(Projection(), estimator=e, ig_steps=2, batch_size=300, **options),
            ablation=ablation,
        )
        for e in ESTIMATORS
    ]
    largest = max(abs(v) for v in found[0].values() if v != float("inf"))
    assert largest > 1e-3
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=2e-6 * largest)


@pytest.mark.parametrize("estimator", ["eap-ig-activations", "exact"])
def test_scores_do_not_depend_on_the_batch_size(estimator: Any) -> None:
    model = tiny.dense("LN", n_layers=1, n_heads=2)
    graph, prompts = ComponentGraph.from_model(model), tiny.prompts(5)
    for ablation in (
        InterchangeAblation(),
        InterchangeAblation(tokens=tiny.prompts(5, seed=3).clean),
    ):
        one, other = (
            scores(
                graph,
                model,
                AttributionPatching(estimator=estimator, ig_steps=2, batch_size=size),
                ablation=ablation,
                prompts=prompts,
            )
            for size in (2, 64)
        )
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(
    ("rule", "shares"), [("left", (0, 0.5)), ("midpoint", (0.25, 0.75)), ("right", (0.5, 1))]
)
def test_where_the_steps_of_a_path_lie(rule: Any, shares: tuple[float, ...]) -> None:
    method = AttributionPatching(estimator="eap-ig-inputs", ig_steps=2, ig_rule=rule)
    assert method._points().shares == shares


def test_selection() -> None:
    model = tiny.dense("LN", n_heads=2)
    graph, task = ComponentGraph.from_model(model), Task("tiny", tiny.prompts())
    found = {
        selection: AttributionPatching(selection=selection)
        .discover(model, graph, task, ablation=InterchangeAblation())
        .at(n_edges=12)
        for selection in ("absolute", "signed", "greedy")
    }
    values = scores(graph, model, AttributionPatching())
    best = sorted(values, key=lambda name: -abs(values[name]))[:12]
    largest = sorted(values, key=lambda name: -values[name])[:12]
    assert sorted(found["absolute"].edge_names()) == sorted(best)
    assert sorted(found["signed"].edge_names()) == sorted(largest)
    greedy = found["greedy"]
    assert greedy.n_edges == 12
    sources = {name.split("->")[0] for name in greedy.edge_names()}
    ends = {name.split("->")[1].split("<")[0] for name in greedy.edge_names()}
    assert ends <= sources | {"logits"}, "every edge leads to the output"


def test_cost_counts_passes() -> None:
    model = tiny.dense("LN")
    graph, task = ComponentGraph.from_model(model), Task("tiny", tiny.prompts())
    for batch_size in (64, len(task.train)):  # all runs in one pass, or each in its own
        method = AttributionPatching(estimator="eap-ig-inputs", batch_size=batch_size)
        cost = method.discover(model, graph, task, ablation=InterchangeAblation()).cost
        assert (cost.forward_passes, cost.backward_passes) == (2 + 5, 5)


def test_hooks_that_tell_rows_apart() -> None:
    """Then each run has a pass of its own."""
    model: Any = tiny.dense("LN")
    graph, task = ComponentGraph.from_model(model), Task("tiny", tiny.prompts())
    added = torch.randn(len(task.train), 1, model.cfg.d_model)
    method = AttributionPatching(estimator="eap-ig-inputs")
    try:
        model.add_perma_hook("blocks.0.hook_resid_pre", lambda stream, hook: stream + added)
        found = method.discover(model, graph, task, ablation=InterchangeAblation()).scores
    finally:
        model.reset_hooks(including_permanent=True)
    assert len(found.by_name()) == graph.n_edges


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ig_steps": 0}, "ig_steps must be at least 1"),
        ({"nodes": True, "edges": True}, "scores nodes or edges"),
        ({"relp": True, "estimator": "exact"}, "takes none"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttributionPatching(**options)


@pytest.mark.parametrize("field", ["estimator", "selection", "ig_rule"])
def test_unknown_options_are_refused(field: str) -> None:
    options: dict[str, Any] = {field: "best"}
    with pytest.raises(ValueError, match=f"{field} must be one of '.*', got 'best'"):
        AttributionPatching(**options)


def test_greedy_selection_of_nodes_is_refused() -> None:
    model = tiny.dense("LN")
    task = Task("tiny", tiny.prompts())
    for graph, nodes, remedy in (
        (ComponentGraph.from_model(model), True, "drop nodes=True"),
        (ChannelGraph.from_model(model), False, "pass edges=True"),
    ):
        method = AttributionPatching(selection="greedy", nodes=nodes)
        with pytest.raises(ValueError, match=remedy):
            method.discover(model, graph, task, ablation=ZeroAblation())
