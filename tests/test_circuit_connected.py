"""What lies on a path, against a slow walk over names and a reference program's pruning."""

import json

import pytest

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from tests.graphs.oracle import on_paths
from tests.graphs.tiny import GRAPHS, config, random_edge_circuit, random_node_circuit, sparse_model


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("make", [random_edge_circuit, random_node_circuit])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_connected_is_what_a_slow_walk_finds(graph, make, share, seed):
    circuit = make(graph, share, seed)
    if circuit.n_nodes > 80:  # the oracle is quadratic
        circuit = make(graph, 0.3 * share, seed)
    connected = circuit.connected()
    nodes, edges = on_paths(circuit)
    assert set(connected.node_names()) == nodes
    assert set(connected.edge_names()) == edges
    assert connected.is_node_circuit == circuit.is_node_circuit
    assert connected.connected() == connected
    assert connected & circuit == connected


@pytest.mark.parametrize("name", ["ln_gelu", "parallel_ln"])
def test_connected_is_what_the_reference_program_left(fixtures, name):
    reference = json.loads((fixtures / "component_graph" / f"{name}.json").read_text())
    sizes = ("n_layers", "n_heads", "d_model", "parallel_attn_mlp")
    graph = ComponentGraph.from_config(config(**{key: reference["config"][key] for key in sizes}))
    for drawn in reference["circuits"].values():
        circuit = Circuit.from_edge_names(graph, drawn["edges"])
        assert set(circuit.connected().edge_names()) == set(drawn["pruned_edges"])


@pytest.fixture
def graph() -> ChannelGraph:
    """One head a layer, two layers, one weight for each step by hand."""
    model = sparse_model(density=1.0, n_head=2, d_head=1, d_model=2, d_mlp=2)
    return ChannelGraph.from_model(model)


def test_queries_alone_make_a_head_carry_something(graph):
    """input -> q of head 1 -> the edge from its v to attn_out -> final_resid."""
    names = [
        "blocks.0.attn_in:0",
        "blocks.0.q:1",
        "blocks.0.v:1",
        "blocks.0.attn_out:0",
        "final_resid:0",
    ]
    connected = Circuit.from_edge_names(
        graph, ["blocks.0.attn_in:0->blocks.0.q:1", "blocks.0.v:1->blocks.0.attn_out:0"]
    ).connected()
    assert connected.node_names() == names
    assert connected.n_edges == 2


def test_queries_of_another_head_do_not(graph):
    circuit = Circuit.from_edge_names(
        graph, ["blocks.0.attn_in:0->blocks.0.q:0", "blocks.0.v:1->blocks.0.attn_out:0"]
    )
    assert circuit.connected() == Circuit.empty(graph)


def test_values_need_neither_queries_nor_keys(graph):
    circuit = Circuit.from_edge_names(
        graph, ["blocks.0.attn_in:0->blocks.0.v:0", "blocks.0.v:0->blocks.0.attn_out:1"]
    )
    assert circuit.connected().n_edges == 2
    assert circuit.connected().node_names()[-1] == "final_resid:1"


def test_a_pruned_final_channel_ends_the_path(graph):
    names = ["blocks.1.mlp_in:0", "blocks.1.mlp_post:0", "blocks.1.mlp_out:0", "final_resid:1"]
    assert Circuit.from_node_names(graph, names).connected() == Circuit.empty(graph)
    names[-1] = "final_resid:0"
    assert Circuit.from_node_names(graph, names).connected().n_nodes == 4


def test_full_and_empty():
    for graph in GRAPHS.values():
        assert Circuit.empty(graph).connected() == Circuit.empty(graph)
    dense = GRAPHS["channel, dense"]
    assert Circuit.full(dense).connected() == Circuit.full(dense)
    component = GRAPHS["component"]
    assert Circuit.full(component).connected() == Circuit.full(component)
    without_output = [name for name in component.node_names() if name != "logits"]
    assert Circuit.from_node_names(component, without_output).connected().n_nodes == 0
