"""Metrics against loops over examples and tokens; complements against sets of names."""

import math

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.circuit import Circuit
from sparse_lens.evals.controls import complement
from sparse_lens.evals.metrics import compare_logits, measure, model_logits
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.patching import bind, patched, run_circuit
from sparse_lens.task import Prompts
from tests.evals import toy_comparison as toy
from tests.graphs.tiny import GRAPHS, random_edge_circuit, random_node_circuit

PROMPTS = toy.prompts(5, 9)


def slow_metrics(logits, full, answer, distractor):
    """One example at a time, in double precision."""
    p = [math.exp(x) for x in full.double().tolist()]
    q = [math.exp(x) for x in logits.double().tolist()]
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    difference = float(logits[answer] - logits[distractor])
    return {
        "kl": sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)),
        "task_loss": -math.log(q[answer] / (q[answer] + q[distractor])),
        "logit_difference": difference,
        "accuracy": 0.5 if difference == 0 else float(difference > 0),
        "exact_match": float(
            max(range(11), key=p.__getitem__) == max(range(11), key=q.__getitem__)
        ),
    }


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
@pytest.mark.parametrize("ablation", [MeanAblation(), ZeroAblation(), InterchangeAblation()])
def test_against_loops(graph_of, ablation):
    model = toy.model()
    graph = graph_of(model)
    circuit = random_edge_circuit(graph, 0.5, seed=1)
    found = measure(bind(model, graph, ablation), circuit, PROMPTS, batch_size=3)
    with torch.no_grad():
        logits = run_circuit(model, circuit, PROMPTS, ablation=ablation)
        full = model(PROMPTS.clean)
    distractors = PROMPTS.distractors
    assert distractors is not None
    for i, position in enumerate(PROMPTS.answer_positions.tolist()):
        answer, distractor = int(PROMPTS.answers[i]), int(distractors[i])
        slow = slow_metrics(logits[i, position], full[i, position], answer, distractor)
        for name, value in slow.items():
            assert float(getattr(found, name)[i]) == pytest.approx(value, abs=2e-5), name
    means = found.means()
    assert means["kl"] == pytest.approx(sum(found.kl.tolist()) / 10)
    assert list(means) == ["kl", "task_loss", "logit_difference", "accuracy", "exact_match"]


def test_the_model_is_the_whole_one_inside_a_circuit_too():
    model = toy.model()
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, ZeroAblation())
    empty = Circuit.empty(graph)
    expected = measure(bound, empty, PROMPTS)
    with patched(model, empty, ablation=bound):
        found = measure(bound, empty, PROMPTS)
    assert torch.equal(found.kl, expected.kl)
    assert float(found.kl.mean()) > 0


def test_batch_size_and_given_logits_change_nothing():
    model = toy.model()
    graph = ChannelGraph.from_model(model)
    bound, circuit = toy.bound(graph, model), random_node_circuit(graph, 0.6, seed=2)
    whole = measure(bound, circuit, PROMPTS)
    parts = measure(bound, circuit, PROMPTS, full_logits=model_logits(model, PROMPTS), batch_size=4)
    torch.testing.assert_close(whole.kl, parts.kl, atol=1e-6, rtol=1e-5)
    assert not whole.kl.requires_grad


def test_a_tie_is_half_right_and_the_model_matches_itself():
    logits = torch.zeros(1, 11)
    one = Prompts(
        clean=torch.tensor([[1]]),
        corrupted=torch.tensor([[2]]),
        answers=torch.tensor([3]),
        distractors=torch.tensor([7]),
    )
    assert compare_logits(logits, logits, one).means() == {
        "kl": 0.0,
        "task_loss": pytest.approx(math.log(2)),
        "logit_difference": 0.0,
        "accuracy": 0.5,
        "exact_match": 1.0,
    }


@pytest.mark.parametrize("name", GRAPHS)
def test_complement_of_nodes(name):
    graph = GRAPHS[name]
    circuit = random_node_circuit(graph, 0.4, seed=3)
    rest = {n for n in graph.node_names() if n not in circuit.node_names()}
    if graph.kind == "component":
        rest |= {n for n in graph.node_names() if n in ("input", "embed", "pos", "logits")}
    assert set(complement(circuit).node_names()) == rest
    assert complement(circuit).is_node_circuit


@pytest.mark.parametrize("name", GRAPHS)
def test_complement_of_edges(name):
    graph = GRAPHS[name]
    circuit = random_edge_circuit(graph, 0.4, seed=3)
    rest = complement(circuit)
    assert set(rest.edge_names()) == set(graph.edge_names()) - set(circuit.edge_names())
    untouched = graph.flatten(rest.node_masks)[~graph.touched]
    assert bool(untouched.all()), "nodes that no edge can touch are not the circuit's to ablate"


def test_ablating_everything_leaves_the_empty_circuit():
    model = toy.model()
    for graph in (ChannelGraph.from_model(model), ComponentGraph.from_model(model)):
        bound = toy.bound(graph, model)
        empty = measure(bound, Circuit.empty(graph), PROMPTS)
        every_edge = Circuit.from_edge_masks(graph, graph.edge_support)
        by_edges = measure(bound, complement(every_edge), PROMPTS)
        if graph.kind == "component":
            torch.testing.assert_close(by_edges.kl, empty.kl)
        else:
            by_nodes = measure(bound, complement(Circuit.full(graph)), PROMPTS)
            torch.testing.assert_close(by_nodes.kl, empty.kl)
        none = measure(bound, complement(Circuit.empty(graph)), PROMPTS)
        torch.testing.assert_close(none.kl, torch.zeros(10), atol=1e-5, rtol=0)
