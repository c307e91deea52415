"""Random circuits like a circuit: counted by name, and their paths found by networkx."""

from collections import Counter

import pytest
import torch

from sparse_lens.circuit import Circuit
from sparse_lens.evals.controls import random_circuit
from sparse_lens.graphs import Graph
from tests.graphs.oracle import on_paths
from tests.graphs.tiny import CHANNEL, GRAPHS, random_edge_circuit, random_node_circuit

ENDS = ("input", "embed", "pos", "logits")
each_graph = pytest.mark.parametrize("name", GRAPHS)
each_kind = pytest.mark.parametrize("make", [random_node_circuit, random_edge_circuit])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(circuit: Circuit) -> Counter[str]:
    """Nodes by site, or edges by block, or by the sublayer that reads in a component graph."""
    if circuit.is_node_circuit:
        return Counter(circuit.graph.parse_node(name)[0] for name in circuit.node_names())
    if circuit.graph.kind == "component":
        readers = (name.split("->")[1] for name in circuit.edge_names())
        return Counter(reader.split(".")[0] for reader in readers)
    return Counter(circuit.graph.parse_edge(name)[0] for name in circuit.edge_names())


def graph_has_choice(circuit: Circuit) -> bool:
    """Sites of one or two heads leave little to draw."""
    return circuit.graph.kind == "channel" or not circuit.is_node_circuit


def smallest_connected(graph: Graph, *, edges: bool) -> Circuit:
    """A circuit of few nodes or edges with a path, which few random ones of its counts have."""
    for seed in range(1000):
        share = 0.05 + 0.001 * seed
        make = random_edge_circuit if edges else random_node_circuit
        circuit = make(graph, share, seed)
        if graph.kind == "component" and not edges:
            ends = [name for name in graph.node_names() if name in ENDS]
            circuit |= Circuit.from_node_names(graph, ends)
        if on_paths(circuit)[1]:
            return circuit.connected()
    raise AssertionError("no seed gave a path")


@each_graph
@each_kind
def test_as_many_at_each_site(name, make):
    """Also where the circuit has no path, as with few nodes."""
    for share in (0.1, 0.4, 0.9):
        circuit = make(GRAPHS[name], share, seed=5)
        has_path = bool(on_paths(circuit)[1])
        draws = [random_circuit(circuit, generator(seed)) for seed in range(2)]
        if share == 0.4 and graph_has_choice(circuit):
            assert draws[0] != draws[1]
        for drawn in draws:
            assert drawn.is_node_circuit == circuit.is_node_circuit
            assert counts(drawn) == counts(circuit)
            untouched = ~circuit.graph.touched
            if not circuit.is_node_circuit:
                before, after = (circuit.graph.flatten(c.node_masks) for c in (circuit, drawn))
                assert torch.equal(before[untouched], after[untouched])
            elif circuit.graph.kind == "component":
                ends = [{n for n in c.node_names() if n in ENDS} for c in (circuit, drawn)]
                assert ends[0] == ends[1]
            if has_path:
                assert on_paths(drawn)[1]


@each_graph
@pytest.mark.parametrize("edges", [False, True])
def test_a_path_where_the_circuit_has_one(name, edges):
    circuit = smallest_connected(GRAPHS[name], edges=edges)
    for seed in range(10):
        drawn = random_circuit(circuit, generator(seed))
        assert counts(drawn) == counts(circuit)
        assert on_paths(drawn)[1]


@each_graph
@each_kind
def test_the_generator_decides_and_the_circuit_only_by_its_counts(name, make):
    circuit = make(GRAPHS[name], 0.3, seed=2)
    drawn = random_circuit(circuit, generator(4))
    assert drawn == random_circuit(circuit, generator(4))
    # Another circuit of the same counts, with or without a path as this one, has the same draws.
    assert bool(on_paths(drawn)[1]) == bool(on_paths(circuit)[1])
    assert random_circuit(drawn, generator(4)) == drawn
    assert random_circuit(drawn, generator(7)) == random_circuit(circuit, generator(7))


def test_without_need_of_a_path_every_node_of_a_site_is_as_likely():
    names = ["blocks.0.attn_out:0", "blocks.0.attn_out:1", "blocks.1.v:2"]
    circuit = Circuit.from_node_names(CHANNEL, names)
    assert circuit.connected().n_edges == 0
    source = generator()
    drawn: Counter[str] = Counter()
    for _ in range(400):
        drawn.update(random_circuit(circuit, source).node_names())
    for index in range(4):
        assert drawn[f"blocks.0.attn_out:{index}"] == pytest.approx(200, abs=45)
    for index in range(6):
        assert drawn[f"blocks.1.v:{index}"] == pytest.approx(400 / 6, abs=35)


def test_the_whole_and_nothing():
    for graph in GRAPHS.values():
        for circuit in (
            Circuit.full(graph),
            Circuit.empty(graph),
            Circuit.from_edge_masks(graph, graph.edge_support),
        ):
            assert random_circuit(circuit, generator()) == circuit
