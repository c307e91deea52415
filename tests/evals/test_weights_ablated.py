"""A circuit with other weights of equal size: which change, what runs, and what is left after."""

import sys
from copy import deepcopy
from typing import Any

import pytest
import torch

from sparse_lens.ablation import MeanAblation
from sparse_lens.evals.metrics import compare_logits, measure, model_logits
from sparse_lens.evals.questions import weights_ablated
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.graphs.reweighting import reweighted
from sparse_lens.patching import bind, circuit_logits
from tests import planted
from tests.evals import toy_comparison as toy
from tests.graphs.tiny import random_edge_circuit, random_node_circuit
from tests.patching import tiny

PROMPTS = toy.prompts(5, 9)
MODULE = sys.modules["sparse_lens.evals.questions.weights_ablated"]  # not the function


def parameters(model: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def parameter_of(model: Any, edge: str) -> tuple[Any, tuple[int, ...]]:
    """The parameter and index of an edge's weight, by its name."""
    source, destination = edge.split("->")
    (site, src), (written, dst) = (end.rsplit(":", 1) for end in (source, destination))
    block = model.blocks[int(site.split(".")[1])]
    role, i, j = written.split(".")[2], int(src), int(dst)
    d_head = model.cfg.d_head
    if role in "qkv":
        return getattr(block.attn, f"W_{role.upper()}"), (j // d_head, i, j % d_head)
    if role == "attn_out":
        return block.attn.W_O, (i // d_head, i % d_head, j)
    return (block.mlp.W_in if role == "mlp_post" else block.mlp.W_out), (i, j)


@pytest.mark.parametrize(
    "model", [tiny.sparse("all of it"), tiny.dense("LN"), tiny.dense("attention only")]
)
def test_factors_reach_the_weights_of_the_edges_and_are_undone(model: Any) -> None:
    graph = ChannelGraph.from_model(model)
    before, generator = parameters(model), torch.Generator().manual_seed(0)
    factors = {
        name: torch.rand(shape, generator=generator) + 0.5
        for name, shape in graph.block_shapes.items()
    }
    expected = deepcopy(model)
    with torch.no_grad():
        for name in graph.edge_names():
            parameter, index = parameter_of(expected, name)
            block, dst, src = graph.parse_edge(name)
            parameter[index] *= factors[block][dst, src]
    with reweighted(model, graph, factors):
        for name, value in expected.named_parameters():
            assert torch.equal(model.get_parameter(name), value), name
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("make", [random_node_circuit, random_edge_circuit])
@pytest.mark.parametrize("sparse", [True, False])
def test_sizes_are_dealt_out_anew_among_the_kept_edges(
    make: Any, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy.model() if sparse else tiny.dense("LN")
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, MeanAblation(tokens=PROMPTS.corrupted))
    circuit = make(graph, 0.8, seed=4)
    before, weights = parameters(model), graph.edge_weights(model)
    weights = {name: weight.detach().clone() for name, weight in weights.items()}
    changed: list[Any] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        changed.append(deepcopy(model))
        return measure(*arguments, **options)

    monkeypatch.setattr(MODULE, "measure", spy)
    found = weights_ablated(bound, circuit, PROMPTS, draws=3, seed=5)
    assert len(found) == len(changed) == 3
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name
    full_logits = model_logits(model, PROMPTS)
    n_flipped, n_kept = 0, 0
    for other, metrics in zip(changed, found.metrics, strict=True):
        for block, weight in graph.edge_weights(other).items():
            kept = circuit.edge_mask(block)
            torch.testing.assert_close(weight[~kept], weights[block][~kept], rtol=0, atol=0)
            old, new = weights[block][kept], weight[kept].detach()
            torch.testing.assert_close(new.abs().sort().values, old.abs().sort().values)
            n_flipped += int((new.sign() != old.sign()).sum())
            n_kept += len(old)
        # What is ablated carries what it did.
        constants = MeanAblation(means=bound.values(PROMPTS))
        logits = circuit_logits(bind(other, graph, constants), circuit, PROMPTS)
        expected = compare_logits(logits, full_logits, PROMPTS)
        for metric, values in vars(expected).items():
            torch.testing.assert_close(getattr(metrics, metric), values, msg=metric)
    assert 0.3 < n_flipped / n_kept < 0.7
    again, other = (weights_ablated(bound, circuit, PROMPTS, draws=3, seed=s) for s in (5, 6))
    assert torch.equal(again.values("kl"), found.values("kl"))
    assert not torch.equal(other.values("kl"), found.values("kl"))


@pytest.mark.parametrize("name", [n for n in planted.problems() if "channel" in n])
def test_the_planted_circuit_breaks(name: str) -> None:
    problem = planted.problems()[name]
    bound = bind(problem.model, problem.graph, problem.ablation)
    held_out = planted.task().split("held_out")
    assert float(measure(bound, problem.circuit, held_out).task_loss.mean()) < 0.05
    losses = weights_ablated(bound, problem.circuit, held_out, draws=8).means()["task_loss"]
    assert min(losses) > 0.3


def test_the_model_is_restored_when_a_draw_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy.model()
    graph = ChannelGraph.from_model(model)
    before = parameters(model)

    def failing(*_: Any, **__: Any) -> Any:
        assert any(not torch.equal(v, before[name]) for name, v in model.named_parameters())
        raise ZeroDivisionError

    monkeypatch.setattr(MODULE, "measure", failing)
    circuit = random_node_circuit(graph, 0.5, seed=4)
    with pytest.raises(ZeroDivisionError):
        weights_ablated(toy.bound(graph, model), circuit, PROMPTS)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_edges_that_are_no_weights_are_refused() -> None:
    model = toy.model()
    graph = ComponentGraph.from_model(model)
    circuit = random_node_circuit(graph, 0.5, seed=4)
    with pytest.raises(ValueError, match=r"ChannelGraph\.from_model"):
        weights_ablated(toy.bound(graph, model), circuit, PROMPTS)
