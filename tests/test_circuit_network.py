"""Circuits as networkx graphs."""

import networkx as nx
import pytest

from sparse_lens.circuit import Circuit
from tests.graphs.oracle import END, START, channel_links
from tests.graphs.tiny import GRAPHS, random_edge_circuit, random_node_circuit

every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


@every_graph
@pytest.mark.parametrize("make", [random_edge_circuit, random_node_circuit])
def test_kept_nodes_and_edges_and_no_others(graph, make):
    circuit = make(graph, 0.5, seed=1)
    network = circuit.to_networkx()
    assert list(network.nodes) == circuit.node_names()
    assert network.number_of_edges() == circuit.n_edges
    assert sorted(name for *_, name in network.edges(data="name")) == sorted(circuit.edge_names())
    assert nx.is_directed_acyclic_graph(network)
    for name, data in network.nodes(data=True):
        assert graph.parse_node(name) == (data["site"], data["index"])
        assert data["layer"] == graph.sites[data["site"]].layer
    for source, destination, data in network.edges(data=True):
        assert data["name"].split("->")[0] == source
        assert data["name"].split("->")[1].split("<")[0] == destination
        assert graph.parse_edge(data["name"])[0] == data["block"]


def test_queries_keys_and_values_are_parallel_edges():
    network = Circuit.full(GRAPHS["component"]).to_networkx()
    assert set(network["input"]["a0.h0"]) == {"q", "k", "v"}
    assert set(network["input"]["m0"]) == {"edge"}


@pytest.mark.parametrize("name", [name for name in GRAPHS if name.startswith("channel")])
@pytest.mark.parametrize("make", [random_edge_circuit, random_node_circuit])
def test_links_are_those_of_the_definition(name, make):
    circuit = make(GRAPHS[name], 0.3, seed=2)
    network = circuit.to_networkx(links=True)
    assert (next(iter(network.nodes)), list(network.nodes)[-1]) == ("embedding", "logits")
    links = {(s, d) for s, d, kind in network.edges(data="kind") if kind == "link"}
    rename = {START: "embedding", END: "logits"}
    expected = set()
    for source, end in channel_links(circuit):
        destination = end.split("->")[-1]  # a link to an edge leads to what that writes
        expected.add((rename.get(source, source), rename.get(destination, destination)))
    assert links == expected
    assert network.number_of_edges() == circuit.n_edges + len(links)


def test_a_component_graph_has_no_links():
    circuit = Circuit.full(GRAPHS["component"])
    assert nx.utils.graphs_equal(circuit.to_networkx(), circuit.to_networkx(links=True))
