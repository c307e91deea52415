"""Circuits: what they keep, against sets of names; laws of set algebra; immutability."""

import dataclasses
import itertools

import pytest
import torch

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from tests.graphs.oracle import ends
from tests.graphs.tiny import (
    COMPONENT,
    GRAPHS,
    config,
    random_edge_circuit,
    random_node_circuit,
    sparse_model,
)

every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


@every_graph
def test_full_and_empty(graph):
    full, empty = Circuit.full(graph), Circuit.empty(graph)
    assert (full.n_nodes, full.n_edges) == (graph.n_nodes, graph.n_edges)
    assert (empty.n_nodes, empty.n_edges) == (0, 0)
    assert full.node_names() == list(graph.node_names())
    assert full.edge_names() == list(graph.edge_names())
    assert empty.node_names() == empty.edge_names() == []
    assert full != empty


@every_graph
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_edges_of_a_node_circuit_are_those_between_its_nodes(graph, share):
    circuit = random_node_circuit(graph, share, seed=1)
    names = circuit.node_names()
    between = [e for e in graph.edge_names() if all(end in set(names) for end in ends(e))]
    assert circuit.edge_names() == between
    assert circuit.n_edges == len(between)
    assert circuit.n_nodes == len(names)
    assert circuit.edge_masks is None
    assert Circuit.from_node_names(graph, reversed(names)) == circuit


@every_graph
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_nodes_of_an_edge_circuit_are_the_ends_of_its_edges(graph, share):
    edges = random_edge_circuit(graph, share, seed=1).edge_names()
    circuit = Circuit.from_edge_names(graph, itertools.chain(edges, reversed(edges)))
    assert circuit.edge_names() == edges
    assert circuit.n_edges == len(edges)
    edgeless = {name for name in graph.node_names() if name.startswith("final_resid")}
    assert set(circuit.node_names()) == {end for edge in edges for end in ends(edge)} | edgeless
    for block in graph.edge_support:
        assert not (circuit.edge_mask(block) & ~graph.edge_support[block]).any()


@every_graph
def test_masks_and_names_agree(graph):
    circuit = random_edge_circuit(graph, 0.4, seed=2)
    assert circuit.edge_masks is not None
    again = Circuit.from_edge_masks(graph, circuit.edge_masks, node_masks=circuit.node_masks)
    assert again == circuit
    assert hash(again) == hash(circuit)
    nodes = random_node_circuit(graph, 0.4, seed=2)
    assert Circuit.from_node_masks(graph, nodes.node_masks) == nodes


def circuits(graph, make):
    return [make(graph, share, seed) for seed, share in enumerate((0.2, 0.5, 0.8))]


@every_graph
@pytest.mark.parametrize("make", [random_edge_circuit, random_node_circuit])
def test_laws_of_set_algebra(graph, make):
    empty, full = Circuit.empty(graph), Circuit.full(graph)
    for a, b, c in itertools.permutations(circuits(graph, make)):
        assert a & b == b & a
        assert a | b == b | a
        assert (a & b) & c == a & (b & c)
        assert (a | b) | c == a | (b | c)
        assert a & (b | c) == (a & b) | (a & c)
        assert a | (b & c) == (a | b) & (a | c)
        assert a & (a | b) == a == a | (a & b)
        assert a & a == a == a | a
        assert a - a == empty
        assert a - b == a - (a & b)
        assert (a - b) & b == empty
        assert (a - b) | (a & b) == a
        assert a - (b | c) == (a - b) & (a - c)
        assert a & empty == empty
        assert a | empty == a == a & full


@every_graph
def test_operations_are_those_of_sets_of_names(graph):
    a, b, _ = circuits(graph, random_edge_circuit)
    assert set((a & b).edge_names()) == set(a.edge_names()) & set(b.edge_names())
    assert set((a | b).edge_names()) == set(a.edge_names()) | set(b.edge_names())
    assert set((a - b).edge_names()) == set(a.edge_names()) - set(b.edge_names())
    a, b, _ = circuits(graph, random_node_circuit)
    assert set((a & b).node_names()) == set(a.node_names()) & set(b.node_names())
    assert set((a | b).node_names()) == set(a.node_names()) | set(b.node_names())
    assert set((a - b).node_names()) == set(a.node_names()) - set(b.node_names())


@every_graph
def test_a_node_circuit_meets_an_edge_circuit_on_edges(graph):
    nodes, edges = random_node_circuit(graph, 0.6, 1), random_edge_circuit(graph, 0.5, 1)
    met = nodes & edges
    assert not met.is_node_circuit
    assert set(met.edge_names()) == set(nodes.edge_names()) & set(edges.edge_names())
    assert set((nodes - edges).edge_names()) == set(nodes.edge_names()) - set(edges.edge_names())


@every_graph
def test_iou(graph):
    a, b, _ = circuits(graph, random_edge_circuit)
    left, right = set(a.edge_names()), set(b.edge_names())
    assert a.iou(b) == b.iou(a) == len(left & right) / len(left | right)
    a, b, _ = circuits(graph, random_node_circuit)
    left, right = set(a.node_names()), set(b.node_names())
    assert a.iou(b) == len(left & right) / len(left | right)
    assert a.iou(a) == 1.0
    assert Circuit.empty(graph).iou(Circuit.empty(graph)) == 1.0
    assert Circuit.empty(graph).iou(Circuit.full(graph)) == 0.0


def test_a_circuit_given_twice_is_equal_whichever_way_it_is_given():
    graph = GRAPHS["component"]
    full = Circuit.full(graph)
    by_edges = Circuit.from_edge_names(graph, graph.edge_names())
    assert full == by_edges
    assert hash(full) == hash(by_edges)
    assert len({full, by_edges, Circuit.empty(graph)}) == 2
    assert full != "circuit"


def test_circuits_of_different_graphs_do_not_mix():
    graphs = list(GRAPHS.values())
    with pytest.raises(ValueError, match="different graphs"):
        _ = Circuit.full(graphs[0]) & Circuit.full(graphs[1])
    with pytest.raises(ValueError, match="different graphs"):
        Circuit.full(graphs[0]).iou(Circuit.full(graphs[-1]))
    assert Circuit.empty(graphs[0]) != Circuit.empty(graphs[1])
    with pytest.raises(TypeError):
        Circuit.full(graphs[0]) | 3  # type: ignore[operator]


def test_circuits_of_equal_graphs_mix():
    one, other = (ComponentGraph.from_config(config()) for _ in range(2))
    assert one is not other
    assert Circuit.full(one) & Circuit.empty(other) == Circuit.empty(one)


@every_graph
def test_nothing_done_to_tensors_outside_changes_a_circuit(graph):
    masks = {name: torch.zeros(site.width, dtype=torch.bool) for name, site in graph.sites.items()}
    circuit = Circuit.from_node_masks(graph, masks)
    for mask in itertools.chain(masks.values(), circuit.node_masks.values()):
        mask.fill_(True)
    assert circuit == Circuit.empty(graph)

    edges = {b: torch.zeros_like(s) for b, s in graph.edge_support.items()}
    circuit = Circuit.from_edge_masks(graph, edges, node_masks=circuit.node_masks)
    assert circuit.edge_masks is not None
    for block, mask in edges.items():
        mask.fill_(True)
        circuit.edge_mask(block).fill_(True)
        circuit.edge_masks[block].fill_(True)
    assert circuit == Circuit.empty(graph)
    assert circuit.n_edges == 0


def test_attributes_and_mappings_cannot_be_set():
    circuit = Circuit.full(GRAPHS["component"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        circuit.graph = GRAPHS["channel"]  # type: ignore[misc]
    with pytest.raises(TypeError):
        circuit.node_masks["logits"] = torch.zeros(1, dtype=torch.bool)  # type: ignore[index]
    assert repr(circuit).startswith("Circuit(given by nodes: 8 of 8 nodes, ")


def test_unknown_names_are_refused_with_a_hint():
    graph = GRAPHS["component"]
    with pytest.raises(ValueError, match=r"'a0.h3'.*Did you mean 'a0.h"):
        Circuit.from_node_names(graph, ["input", "a0.h3"])
    with pytest.raises(ValueError, match="has no edge 'input->m7'"):
        Circuit.from_edge_names(graph, ["input->m0", "input->m7"])
    with pytest.raises(ValueError, match=r"no block 'edge'.*'edges'"):
        Circuit.full(graph).edge_mask("edge")


def test_node_masks_that_do_not_fit():
    graph = GRAPHS["component"]
    masks = dict(Circuit.full(graph).node_masks)
    with pytest.raises(ValueError, match=r"1 of 6 sites are missing: logits"):
        Circuit.from_node_masks(graph, {k: v for k, v in masks.items() if k != "logits"})
    with pytest.raises(ValueError, match=r"no site 'logit'.*'logits'"):
        Circuit.from_node_masks(graph, masks | {"logit": masks["logits"]})
    with pytest.raises(ValueError, match=r"'logits' needs a tensor of shape \(1,\), got \(2,\)"):
        Circuit.from_node_masks(graph, masks | {"logits": torch.ones(2, dtype=torch.bool)})


def test_edge_masks_that_do_not_fit():
    graph = COMPONENT
    everything = torch.ones(graph.n_readers, graph.n_writers, dtype=torch.bool)
    with pytest.raises(ValueError, match="pairs that are not edges"):
        Circuit.from_edge_masks(graph, {"edges": everything})
    with pytest.raises(ValueError, match="needs a tensor of shape"):
        Circuit.from_edge_masks(graph, {"edges": everything.T})
    with pytest.raises(ValueError, match="1 of 1 blocks are missing"):
        Circuit.from_edge_masks(graph, {})
    every_node = Circuit.full(graph).node_masks
    with pytest.raises(ValueError, match="from_edge_masks"):
        Circuit(graph, every_node, {"edges": everything & False})
    with pytest.raises(ValueError, match=r"no site 'final'"):
        Circuit.from_edge_masks(
            graph, {"edges": everything & False}, node_masks={"final": everything[0]}
        )


def test_nodes_that_no_edge_touches_are_kept_unless_said_otherwise():
    graph = ChannelGraph.from_model(sparse_model())
    edge = next(iter(graph.edge_names()))
    assert Circuit.from_edge_names(graph, [edge]).n_nodes == 2 + 4
    masks = {b: torch.zeros(s.shape, dtype=torch.bool) for b, s in graph.edge_support.items()}
    final = torch.tensor([True, False, False, True])
    circuit = Circuit.from_edge_masks(graph, masks, node_masks={"final_resid": final})
    assert circuit.node_names() == ["final_resid:0", "final_resid:3"]
