"""Questions about circuits that were written into models by hand, so that the answers are known."""

import copy
from functools import cache
from typing import Any

import pytest
import torch

from sparse_lens.ablation import MeanAblation
from sparse_lens.circuit import Circuit
from sparse_lens.evals.metrics import measure
from sparse_lens.evals.questions import completeness, minimality, partly_ablated, resampled
from sparse_lens.graphs import ChannelGraph
from sparse_lens.objectives import TaskLoss
from sparse_lens.patching import bind, mean_activations, run_circuit
from tests import planted
from tests.planted import Problem

TARGET = 0.15
SPARE = ("blocks.0.mlp_post:1", "blocks.1.mlp_post:6", "blocks.1.attn_in:0")
"""Channels of the planted models that do nothing but noise."""
BACKUPS = ("blocks.1.mlp_post:3", "blocks.1.mlp_post:4")

HELD_OUT = planted.task().split("held_out")[::4]
MEANS = [name for name in planted.problems() if name.endswith(", mean")]
each_problem = pytest.mark.parametrize("name", MEANS)
each_channel_problem = pytest.mark.parametrize("name", [n for n in MEANS if ", channel," in n])


@cache
def bound_of(problem: Problem) -> Any:
    return bind(problem.model, problem.graph, problem.ablation)


@torch.no_grad()
def logits_of(problem: Problem, circuit: Circuit) -> torch.Tensor:
    return run_circuit(problem.model, circuit, HELD_OUT, ablation=bound_of(problem))[:, -1]


@torch.no_grad()
def difference_of(problem: Problem, circuit: Circuit) -> float:
    """Mean logit difference."""
    assert HELD_OUT.distractors is not None
    logits, rows = logits_of(problem, circuit), torch.arange(len(HELD_OUT))
    return float((logits[rows, HELD_OUT.answers] - logits[rows, HELD_OUT.distractors]).mean())


def edges_without(problem: Problem, nodes: tuple[str, ...], names: list[str]) -> Circuit:
    """Those of some edges of a component graph that have none of the nodes at an end."""
    rest = []
    for name in names:
        source, destination = name.split("->")
        if source not in nodes and destination.split("<")[0] not in nodes:
            rest.append(name)
    return Circuit.from_edge_names(problem.graph, rest)


@each_problem
def test_planted_circuits_are_minimal(name: str) -> None:
    problem = planted.problems()[name]
    circuit = problem.circuit
    found = minimality(bound_of(problem), circuit, HELD_OUT)
    removable = [node for node in circuit.node_names() if node not in ("input", "logits")]
    assert list(found.nodes) == removable
    assert found.dispensable == ()
    share = found.share()
    assert share is not None
    assert share.mean == 0
    kept = TaskLoss()(logits_of(problem, circuit), HELD_OUT)
    for node, change in zip(found.nodes, found.changes, strict=True):
        if circuit.is_node_circuit:
            without = problem.without(node)
        else:
            without = edges_without(problem, (node,), problem.names)
        expected = TaskLoss()(logits_of(problem, without), HELD_OUT) - kept
        torch.testing.assert_close(change, expected, atol=1e-4, rtol=1e-4)
    at_hand = minimality(bound_of(problem), circuit, HELD_OUT, circuit_loss=kept)
    torch.testing.assert_close(at_hand.changes, found.changes, atol=1e-4, rtol=1e-4)
    higher = minimality(bound_of(problem), circuit, HELD_OUT, circuit_loss=kept + 1)
    torch.testing.assert_close(higher.changes, found.changes - 1, atol=1e-4, rtol=1e-4)
    first = found.change(found.nodes[0])
    assert first.mean == pytest.approx(float(found.changes[0].mean()), abs=1e-6)
    assert first.low < first.mean < first.high


@each_channel_problem
def test_useless_nodes_make_a_circuit_less_minimal(name: str) -> None:
    problem = planted.problems()[name]
    circuit = problem.circuit | Circuit.from_node_names(problem.graph, SPARE)
    found = minimality(bound_of(problem), circuit, HELD_OUT)
    assert set(found.dispensable) == set(SPARE)
    share = found.share()
    assert share is not None
    assert share.mean == pytest.approx(3 / circuit.n_nodes)
    assert share.low <= share.mean <= share.high
    strict = minimality(bound_of(problem), circuit, HELD_OUT, dispensable_below=1e9)
    assert set(strict.dispensable) == set(circuit.node_names())


def test_a_large_circuit_is_sampled() -> None:
    problem = planted.problems()["sparse, channel, mean"]
    bound = bound_of(problem)
    everything = minimality(bound, problem.circuit, HELD_OUT)
    some = minimality(bound, problem.circuit, HELD_OUT, max_nodes=5, seed=3)
    assert len(some.nodes) == 5
    rows = [everything.nodes.index(node) for node in some.nodes]
    assert rows == sorted(rows)
    torch.testing.assert_close(some.changes, everything.changes[rows], atol=1e-5, rtol=1e-4)
    again = minimality(bound, problem.circuit, HELD_OUT, max_nodes=5, seed=3)
    assert again.nodes == some.nodes
    other = minimality(bound, problem.circuit, HELD_OUT, max_nodes=5, seed=4)
    assert other.nodes != some.nodes
    nothing = minimality(bound, Circuit.empty(problem.graph), HELD_OUT)
    assert (nothing.nodes, nothing.share()) == ((), None)


@each_problem
def test_completeness_by_hand(name: str) -> None:
    """Nothing else in the models does what the planted circuits do."""
    problem = planted.problems()[name]
    circuit, graph = problem.circuit, problem.graph
    found = completeness(bound_of(problem), circuit, HELD_OUT, draws=4, seed=2)
    full = Circuit.full(graph)
    for removed, score in zip(found.removed, found.scores.tolist(), strict=True):
        if circuit.is_node_circuit:
            lost = Circuit.from_node_names(graph, removed)
            rests = (circuit - lost, full - lost)
        else:
            rests = (
                edges_without(problem, removed, problem.names),
                edges_without(problem, removed, list(graph.edge_names())),
            )
        of_circuit, of_model = (difference_of(problem, rest) for rest in rests)
        assert score == pytest.approx(abs(of_circuit - of_model), abs=1e-4)
        assert score < 0.15 * difference_of(problem, full)
    assert found.mean().mean == pytest.approx(float(found.scores.mean()))
    assert found.worst().mean == pytest.approx(float(found.scores.max()))
    assert float(found.mean().values.mean()) == pytest.approx(found.mean().mean)
    again = completeness(bound_of(problem), circuit, HELD_OUT, draws=4, seed=2)
    assert again.removed == found.removed
    assert torch.equal(again.scores, found.scores)


def test_a_circuit_without_its_backups_is_incomplete() -> None:
    """Two more neurons do what the last two of the circuit do."""
    problem = planted.problems()["dense, channel, mean"]
    model = copy.deepcopy(problem.model)
    mlp: Any = model.blocks[1].mlp
    with torch.no_grad():
        for name, neuron in zip(BACKUPS, planted.NEURONS, strict=True):
            backup = int(name.split(":")[1])
            mlp.W_in[:, backup], mlp.b_in[backup] = mlp.W_in[:, neuron], mlp.b_in[neuron]
            mlp.W_out[backup] = mlp.W_out[neuron]
    graph = ChannelGraph.from_model(model)
    without = Circuit.from_node_names(graph, problem.circuit.node_names())
    complete = without | Circuit.from_node_names(graph, BACKUPS)
    bound = bind(model, graph, problem.ablation)
    kept = float(measure(bound, complete, HELD_OUT).logit_difference.mean())
    # Both neurons and nothing else: the model has the backups left, the circuit has nothing.
    knocked_out = {
        circuit: completeness(bound, circuit, HELD_OUT, share=0.1, draws=30, seed=0)
        for circuit in (without, complete)
    }
    assert knocked_out[without].worst().mean > 0.4 * kept
    assert knocked_out[complete].worst().mean < 0.15 * kept


@each_problem
def test_planted_circuits_are_robust(name: str) -> None:
    problem = planted.problems()[name]
    found = partly_ablated(bound_of(problem), problem.circuit, HELD_OUT, draws=6)
    assert found.worst("task_loss").mean < 0.05
    lacking = problem.without(problem.names[3])
    found = partly_ablated(bound_of(problem), lacking, HELD_OUT, draws=6)
    assert found.worst("task_loss").mean > TARGET


def test_planted_circuits_stand_resampling() -> None:
    """What aims the attention is in the circuit for means, so another prompt changes little."""
    for name in ("dense, channel, mean", "sparse, channel, mean", "dense, component, mean"):
        problem = planted.problems()[name]
        found = resampled(bound_of(problem), problem.circuit, HELD_OUT, draws=2)
        assert found.worst("task_loss").mean < 0.05
        lacking = problem.without("m0->a1.h2<v>" if "component" in name else "blocks.1.v:4")
        found = resampled(bound_of(problem), lacking, HELD_OUT, draws=2)
        assert found.mean("task_loss").mean > TARGET


def test_what_cancels_under_one_ablation_does_not_in_parts() -> None:
    """Two neurons outside the circuit write opposite constants; their ablated values are zeros."""
    problem = planted.problems()["dense, channel, mean"]
    model = copy.deepcopy(problem.model)
    mlp: Any = model.blocks[1].mlp
    neurons = [int(name.split(":")[1]) for name in BACKUPS]
    with torch.no_grad():
        mlp.b_in[neurons] = 3.0
        mlp.W_out[neurons] = 0.0
        mlp.W_out[neurons, planted.OUT] = torch.tensor([5.0, -5.0])
    graph = ChannelGraph.from_model(model)
    circuit = Circuit.from_node_names(graph, problem.circuit.node_names())
    means = dict(mean_activations(model, graph, planted.task().train.clean))
    means["blocks.1.mlp_post"][neurons] = 0.0
    means["blocks.1.mlp_out"][planted.OUT] = 0.0
    bound = bind(model, graph, MeanAblation(means=means))
    assert float(measure(bound, circuit, HELD_OUT).task_loss.mean()) < 0.05
    found = partly_ablated(bound, circuit, HELD_OUT, draws=8)
    assert found.worst("task_loss").mean > 1
