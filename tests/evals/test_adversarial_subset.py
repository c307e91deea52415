"""The adversary on models whose circuit is known, and against brute force on a tiny one."""

import copy
import itertools
from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation
from sparse_lens.circuit import Circuit
from sparse_lens.evals.metrics import measure
from sparse_lens.evals.questions import AdversarialSubset, Ascent, adversarial_subset
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching import bind, mean_activations, run_circuit
from tests import planted
from tests.evals import toy_comparison as toy
from tests.graphs.tiny import random_edge_circuit, random_node_circuit

HELD_OUT = planted.task().split("held_out")[::4]
PROMPTS = toy.prompts(5, 9)
FEW = Ascent(steps=5, step_size=0.3, starts=1)
each_graph = pytest.mark.parametrize(
    "graph_of", [ChannelGraph.from_model, ComponentGraph.from_model]
)
each_kind = pytest.mark.parametrize("make", [random_node_circuit, random_edge_circuit])


def loss(metrics: Any) -> float:
    return float(metrics.task_loss.mean())


@pytest.mark.parametrize("name", planted.problems())
def test_a_circuit_that_is_all_that_matters_withstands(name: str) -> None:
    problem = planted.problems()[name]
    bound = bind(problem.model, problem.graph, problem.ablation)
    found = adversarial_subset(bound, problem.circuit, HELD_OUT, draws=2)
    assert loss(found.worst) < 0.05
    assert float(found.worst.accuracy.min()) == 1


@pytest.mark.parametrize("name", [n for n in planted.problems() if n.endswith(", mean")])
def test_a_circuit_that_lacks_something_does_not(name: str) -> None:
    problem = planted.problems()[name]
    bound = bind(problem.model, problem.graph, problem.ablation)
    missing = problem.names[3]
    found = adversarial_subset(bound, problem.without(missing), HELD_OUT, draws=2)
    assert loss(found.worst) > 2
    (ran,) = found.circuits
    names = ran.node_names() if ran.is_node_circuit else ran.edge_names()
    assert missing not in names
    assert set(problem.without(missing).node_names()) <= set(ran.node_names())


NEURONS = [0, 1, 3, 4, 6, 7]
"""Those of the second MLP that the algorithm does not use."""


def with_cancelling_constants() -> tuple[Any, Circuit]:
    """Six neurons outside the circuit write constants that cancel; ablated they write zeros."""
    problem = planted.problems()["dense, channel, mean"]
    model = copy.deepcopy(problem.model)
    mlp: Any = model.blocks[1].mlp
    with torch.no_grad():
        mlp.b_in[NEURONS] = 3.0
        mlp.W_out[NEURONS] = 0.0
        mlp.W_out[NEURONS, planted.OUT] = torch.tensor([1.0, -1.0] * 3)
    graph = ChannelGraph.from_model(model)
    means = dict(mean_activations(model, graph, planted.task().train.clean))
    means["blocks.1.mlp_post"][NEURONS] = 0.0
    bound = bind(model, graph, MeanAblation(means=means))
    return bound, Circuit.from_node_names(graph, problem.circuit.node_names())


def test_the_adversary_finds_what_cancels_at_random() -> None:
    bound, circuit = with_cancelling_constants()
    assert loss(measure(bound, circuit, HELD_OUT)) < 0.05
    found = adversarial_subset(bound, circuit, HELD_OUT)
    random = [loss(metrics) for metrics in found.random]
    assert loss(found.worst) > 3
    assert loss(found.worst) > 4 * sum(random) / len(random)
    assert loss(found.worst) >= max(random)
    # Of the constants it leaves those of one sign.
    (ran,) = found.circuits
    live = ran.node_masks["blocks.1.mlp_post"][NEURONS].view(3, 2)
    assert sorted(live.sum(0).tolist()) == [0, 3]


def test_a_subset_for_each_prompt_hurts_those_of_both_answers() -> None:
    bound, circuit = with_cancelling_constants()
    some = HELD_OUT[:8]
    assert len(set(some.answers.tolist())) == 2
    shared = adversarial_subset(bound, circuit, some, draws=1)
    each = adversarial_subset(bound, circuit, some, draws=1, prompts_per_mask=1)
    assert len(each.circuits) == 8
    assert sorted(set(shared.worst.accuracy.tolist())) == [0, 1]
    assert float(each.worst.accuracy.max()) == 0
    assert loss(each.worst) > loss(shared.worst) + 2
    for i, ran in enumerate(each.circuits):
        alone = measure(bound, ran, some[i : i + 1])
        torch.testing.assert_close(each.worst.task_loss[i : i + 1], alone.task_loss)


def test_against_all_subsets() -> None:
    model = toy.model()
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, MeanAblation())
    absent = [*(f"blocks.0.attn_out:{i}" for i in (0, 2)), "blocks.0.v:1", "blocks.0.mlp_post:3",
              "blocks.0.mlp_out:1", "final_resid:2"]  # fmt: skip
    full = Circuit.full(graph)
    losses = {
        subset: loss(measure(bound, full - Circuit.from_node_names(graph, subset), PROMPTS))
        for size in range(len(absent) + 1)
        for subset in itertools.combinations(absent, size)
    }
    circuit = full - Circuit.from_node_names(graph, absent)
    found = adversarial_subset(bound, circuit, PROMPTS, ascent=Ascent(starts=6))
    ranks = sorted(losses.values(), reverse=True)
    assert loss(found.worst) == pytest.approx(ranks[0], abs=1e-5)
    assert ranks[0] > ranks[len(ranks) // 2] + 0.05


@each_graph
@each_kind
@pytest.mark.parametrize("ablation", [MeanAblation(), InterchangeAblation()])
def test_what_runs_and_what_stays(graph_of: Any, make: Any, ablation: Any) -> None:
    model = toy.model()
    graph = graph_of(model)
    circuit = make(graph, 0.5, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    needed_gradients = [parameter.requires_grad for parameter in model.parameters()]
    bound = bind(model, graph, ablation)
    found = adversarial_subset(bound, circuit, PROMPTS, ascent=FEW, draws=3, seed=2)
    (ran,) = found.circuits
    names = Circuit.node_names if circuit.is_node_circuit else Circuit.edge_names
    assert set(names(circuit)) <= set(names(ran))
    if graph.kind == "component" and circuit.is_node_circuit:
        assert {"input", "logits"} <= set(names(ran))
    metrics = measure(bound, ran, PROMPTS)
    torch.testing.assert_close(found.worst.task_loss, metrics.task_loss)
    assert len(found.random) == 3
    # The model is as it was.
    assert [p.requires_grad for p in model.parameters()] == needed_gradients
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(hook.fwd_hooks or hook.bwd_hooks for hook in model.hook_dict.values())
    # The same from the same seed, whatever the batch size.
    with torch.no_grad():
        again = adversarial_subset(
            bound, circuit, PROMPTS, ascent=FEW, draws=3, seed=2, batch_size=4
        )
    assert again.circuits == found.circuits
    torch.testing.assert_close(again.worst.kl, found.worst.kl, atol=1e-5, rtol=1e-4)
    other = adversarial_subset(bound, circuit, PROMPTS, ascent=FEW, draws=3, seed=3)
    if graph.kind == "channel":  # the other has few parts to draw from
        assert not torch.equal(other.random[0].kl, found.random[0].kl)


@each_graph
def test_one_step_follows_the_gradient(graph_of: Any) -> None:
    """By finite differences of the soft masks."""
    model = toy.model().double()
    graph = graph_of(model)
    circuit = Circuit.from_node_names(
        graph, [name for name in graph.node_names() if name not in absent_of(graph)]
    )
    bound = bind(model, graph, MeanAblation())
    start = torch.rand(len(absent_of(graph)), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def soft_loss(mask: torch.Tensor) -> float:
        nodes = {name: torch.ones(shape).double() for name, shape in graph.site_shapes.items()}
        for name, value in zip(absent_of(graph), mask.tolist(), strict=True):
            site, index = graph.parse_node(name)
            nodes[site][index] = value
        nodes.pop("logits", None)
        logits = run_circuit(model, Masks(graph, nodes, {}), PROMPTS, ablation=bound)
        rows = torch.arange(len(PROMPTS))
        at = logits[rows, PROMPTS.answer_positions]
        assert PROMPTS.distractors is not None
        difference = at[rows, PROMPTS.answers] - at[rows, PROMPTS.distractors]
        return float((1 + (-difference).exp()).log().mean())

    expected = start.clone()
    for i in range(len(start)):
        up, down = start.double(), start.double()
        up[i] += 1e-4
        down[i] -= 1e-4
        expected[i] += 2 * (1 if soft_loss(up) > soft_loss(down) else -1)
    live = Ascent(steps=1, step_size=2.0).climb(
        bound, circuit, PROMPTS, generator=torch.Generator().manual_seed(0)
    )
    assert live.tolist() == (expected >= 0.5).tolist()


def absent_of(graph: Any) -> list[str]:
    if graph.kind == "component":
        return ["a0.h0", "a0.h1", "m0"]
    return ["blocks.0.v:1", "blocks.0.attn_out:0", "blocks.0.mlp_post:3", "blocks.0.mlp_out:1"]


@each_graph
def test_nothing_is_left_to_the_adversary_by_the_full_model(graph_of: Any) -> None:
    model = toy.model()
    graph = graph_of(model)
    bound = bind(model, graph, MeanAblation())
    found = adversarial_subset(bound, Circuit.full(graph), PROMPTS, ascent=FEW, draws=1)
    assert found.circuits == (Circuit.full(graph),)
    torch.testing.assert_close(found.worst.kl, torch.zeros(10), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        ({"starts": 0}, "starts must be 1 or more, got 0"),
        ({"draws": 0}, "draws must be 1 or more, got 0"),
        ({"prompts_per_mask": 0}, "prompts_per_mask must be 1 or more, got 0"),
        ({"step_size": 0.0}, "step_size must be positive, got 0.0"),
    ],
)
def test_refusals(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialSubset(**fields)
