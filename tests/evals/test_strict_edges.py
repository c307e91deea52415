"""Node circuits with only their own edges alive, against edges by name and by hand."""

from typing import Any

import pytest
import torch

from sparse_lens.ablation import MeanAblation
from sparse_lens.circuit import Circuit
from sparse_lens.evals.metrics import measure
from sparse_lens.evals.questions import by_its_edges
from sparse_lens.graphs import ChannelGraph
from sparse_lens.patching import bind
from tests import planted
from tests.evals import toy_comparison as toy
from tests.graphs.tiny import GRAPHS, random_edge_circuit, random_node_circuit

PROMPTS = toy.prompts(5, 9)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_same_edges_by_name(name: str) -> None:
    circuit = random_node_circuit(GRAPHS[name], 0.4, seed=3)
    strict = by_its_edges(circuit)
    assert not strict.is_node_circuit
    assert strict.edge_names() == circuit.edge_names()
    ends = {end for edge in circuit.edge_names() for end in edge.split("->")}
    ends = {end.split("<")[0] for end in ends}
    edgeless = {n for n in circuit.node_names() if n.startswith("final_resid")}
    assert set(strict.node_names()) == ends | edgeless
    edges = random_edge_circuit(GRAPHS[name], 0.4, seed=3)
    assert by_its_edges(edges) == edges


def one_neuron(**changes: Any) -> tuple[Any, Circuit]:
    """A circuit that lacks all neurons but one; the others are strong where tokens excite them."""
    model = toy.model(**changes)
    mlp: Any = model.blocks[0].mlp
    with torch.no_grad():
        mlp.W_in[:, 1:] *= 5
        mlp.b_in[0], mlp.b_in[1:] = 4.0, 0.0
        mlp.W_out[0] *= 3
    graph = ChannelGraph.from_model(model)
    pruned = [f"blocks.0.mlp_post:{index}" for index in range(1, 6)]
    circuit = Circuit.full(graph) - Circuit.from_node_names(graph, pruned)
    return bind(model, graph, MeanAblation()), circuit


def test_pruned_neurons_compete_for_places_of_an_abs_topk() -> None:
    """There is one place for six neurons."""
    bound, circuit = one_neuron(afrac=0.17, afrac_loctypes="mlp_neuron")
    strict = by_its_edges(circuit)
    assert strict.n_edges == circuit.n_edges
    losses = [measure(bound, kept, PROMPTS).task_loss for kept in (circuit, strict)]
    assert float((losses[0] - losses[1]).abs().max()) > 0.01


def test_without_abs_topk_nothing_competes() -> None:
    bound, circuit = one_neuron()
    losses = [measure(bound, kept, PROMPTS).task_loss for kept in (circuit, by_its_edges(circuit))]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["dense, channel, mean", "sparse, channel, mean"])
def test_planted_circuits_need_no_more_than_their_edges(name: str) -> None:
    problem = planted.problems()[name]
    bound = bind(problem.model, problem.graph, problem.ablation)
    held_out = planted.task().split("held_out")
    assert float(measure(bound, by_its_edges(problem.circuit), held_out).task_loss.mean()) < 0.05
