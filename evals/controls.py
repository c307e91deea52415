"""Circuits that a circuit is compared with: what it leaves out, and random ones of its size."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import ComponentGraph


def complement(circuit: Circuit) -> Circuit:
    """The rest of the model: what runs when the circuit is ablated.

    Of a node circuit, the other nodes; on a component graph with the embedding and the logits,
    which are where a circuit begins and ends, so that ablating them would say nothing about it.

    Of an edge circuit, the other edges. A node all of whose edges are in the circuit is ablated
    with them; nodes that no edge can touch (`final_resid` of a channel graph) stay.
    """
    graph = circuit.graph
    if circuit.is_node_circuit:
        ends = _ends(graph)
        rest = ~graph.flatten(circuit.node_masks) | ends
        return Circuit.from_node_masks(graph, graph.unflatten(rest))
    rest = {b: support & ~circuit.edge_mask(b) for b, support in graph.edge_support.items()}
    return Circuit.from_edge_masks(graph, rest)


def random_circuit(circuit: Circuit, generator: torch.Generator) -> Circuit:
    """As many nodes (of a node circuit) or edges (of an edge circuit), uniformly at random.

    On a component graph the embedding and the logits are kept where the circuit keeps them, and
    the other nodes are drawn. Nodes that no edge can touch stay as in an edge circuit.
    """
    graph = circuit.graph
    if circuit.is_node_circuit:
        kept, ends = graph.flatten(circuit.node_masks), _ends(graph)
        drawn = kept & ends
        inner = kept[~ends]
        drawn[~ends] = _draw(len(inner), int(inner.count_nonzero()), generator)
        return Circuit.from_node_masks(graph, graph.unflatten(drawn))
    drawn = _draw(graph.n_edges, circuit.n_edges, generator)
    masks, start = {}, 0
    for block, support in graph.edge_support.items():
        masks[block] = torch.zeros(support.shape, dtype=torch.bool)
        count = int(support.count_nonzero())
        masks[block][support] = drawn[start : start + count]
        start += count
    return Circuit.from_edge_masks(graph, masks, node_masks=circuit.node_masks)


def _ends(graph: Graph) -> Bool[Tensor, " nodes"]:
    """Nodes through which every circuit's input comes in and its answer goes out."""
    ends = torch.zeros(graph.n_nodes, dtype=torch.bool)
    if isinstance(graph, ComponentGraph):
        for site in ("embed", "logits"):
            ends[graph.node_slices[site]] = True
    return ends


def _draw(n: int, k: int, generator: torch.Generator) -> Bool[Tensor, " n"]:
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=generator)[:k]] = True
    return chosen
