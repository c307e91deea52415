"""The parts that a circuit is given by: nodes of a node circuit, edges of an edge circuit."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph
from sparse_lens.masks import Masks


def parts_of(circuit: Circuit) -> Bool[Tensor, " parts"]:
    """Which of the graph's nodes or edges a circuit keeps; edges block after block."""
    graph = circuit.graph
    if circuit.is_node_circuit:
        return graph.flatten(circuit.node_masks)
    return graph.flatten_edges({block: circuit.edge_mask(block) for block in graph.blocks})


def rebuilt(circuit: Circuit, kept: Bool[Tensor, " parts"]) -> Circuit:
    """A circuit of the same kind that keeps other parts.

    Nodes that no edge can touch stay as in an edge circuit.
    """
    graph = circuit.graph
    if circuit.is_node_circuit:
        return Circuit.from_node_masks(graph, graph.unflatten(kept))
    masks = graph.unflatten_edges(kept)
    return Circuit.from_edge_masks(graph, masks, node_masks=circuit.node_masks)


def part_masks(circuit: Circuit, parts: Float[Tensor, " parts"]) -> Masks:
    """Soft masks of the parts by which circuits of this kind are given; ends always stay."""
    graph = circuit.graph
    if not circuit.is_node_circuit:
        return Masks(graph, {}, graph.unflatten_edges(parts))
    by_site = graph.unflatten(parts)
    return Masks(graph, {n: mask for n, mask in by_site.items() if n not in graph.fixed_sites}, {})


def with_live(masks: Masks, live: Float[Tensor, " parts"]) -> Masks:
    """Masks under which a share of what they ablate is live: m + (1 - m) * live.

    Args:
        live: one number in [0, 1] for each edge of the graph where the masks have edges, else for
            each node.
    """
    graph = masks.graph
    if masks.edges:
        by_block = graph.unflatten_edges(live)
        edges = {block: mask + (1 - mask) * by_block[block] for block, mask in masks.edges.items()}
        return Masks(graph, masks.nodes, edges)
    by_site = graph.unflatten(live)
    return Masks(graph, {n: mask + (1 - mask) * by_site[n] for n, mask in masks.nodes.items()}, {})


def by_its_edges(circuit: Circuit) -> Circuit:
    """A node circuit as the edge circuit of all edges between its nodes.

    Nodes that none of these edges touches are pruned; nodes that have no edges in the graph
    (`final_resid` of a channel graph) stay as they are.
    """
    masks = {block: circuit.edge_mask(block) for block in circuit.graph.blocks}
    return Circuit.from_edge_masks(circuit.graph, masks, node_masks=circuit.node_masks)


def masks_by_edges(masks: Masks) -> Masks:
    """Soft masks of nodes as those of the edges between them: the product of its ends' masks."""
    graph, nodes = masks.graph, dict(masks.nodes)
    device = next((mask.device for mask in nodes.values()), None)
    flat = torch.cat(
        [
            nodes[site] if site in nodes else torch.ones(width, device=device)
            for site, (width,) in graph.site_shapes.items()
        ]
    )
    edges = {
        name: flat[block.dst_nodes.to(device), None] * flat[block.src_nodes.to(device)]
        for name, block in graph.blocks.items()
    }
    return Masks(graph, nodes, edges)


def whole_like(circuit: Circuit) -> Circuit:
    """The whole model as a circuit of the same kind."""
    graph = circuit.graph
    if circuit.is_node_circuit:
        return Circuit.full(graph)
    return Circuit.from_edge_masks(graph, graph.edge_support)


def without_nodes(circuit: Circuit, nodes: Bool[Tensor, " nodes"]) -> Circuit:
    """Without some nodes, numbered over the whole graph; from an edge circuit all their edges go.

    Nodes that no edge can touch stay in an edge circuit.
    """
    graph = circuit.graph
    if circuit.is_node_circuit:
        return rebuilt(circuit, parts_of(circuit) & ~nodes)
    masks = {
        name: circuit.edge_mask(name) & ~nodes[block.dst_nodes, None] & ~nodes[block.src_nodes]
        for name, block in graph.blocks.items()
    }
    return Circuit.from_edge_masks(graph, masks, node_masks=circuit.node_masks)


def removable_nodes(circuit: Circuit) -> Bool[Tensor, " nodes"]:
    """Its nodes that say something by being removed: not the ends, nor those without edges.

    Of a node circuit, those that no edge can touch count, too.
    """
    graph = circuit.graph
    nodes = graph.flatten(circuit.node_masks) & ~ends_of(graph)
    return nodes if circuit.is_node_circuit else nodes & graph.touched


def ends_of(graph: Graph) -> Bool[Tensor, " nodes"]:
    """Nodes through which every circuit's input comes in and its answer goes out.

    The embedding and the logits of a component graph; a channel graph has none.
    """
    ends = torch.zeros(graph.n_nodes, dtype=torch.bool)
    for site in graph.fixed_sites:
        ends[graph.node_slices[site]] = True
    return ends


def node_names(graph: Graph, nodes: Bool[Tensor, " nodes"]) -> list[str]:
    """Names of nodes that are numbered over the whole graph."""
    return Circuit.from_node_masks(graph, graph.unflatten(nodes)).node_names()
