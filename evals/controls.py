"""Circuits that a circuit is compared with: what it leaves out, and random ones like it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ComponentGraph
from sparse_lens.parts import ends_of, parts_of, rebuilt, whole_like


def complement(circuit: Circuit) -> Circuit:
    """The rest of the model: what runs when the circuit is ablated.

    Of a node circuit, the other nodes; on a component graph with the embedding and the logits,
    which are where a circuit begins and ends, so that ablating them would say nothing about it.

    Of an edge circuit, the other edges. A node all of whose edges are in the circuit is ablated
    with them; nodes that no edge can touch (`final_resid` of a channel graph) stay.
    """
    rest = ~parts_of(circuit)
    if circuit.is_node_circuit:
        rest |= ends_of(circuit.graph)
    return rebuilt(whole_like(circuit), rest)


def random_circuit(circuit: Circuit, generator: torch.Generator) -> Circuit:
    """A random circuit with as many nodes per site, or edges per block, and a connected path.

    **Node circuits**: as many nodes at each site as the circuit has. The embedding and the logits
    of a component graph are kept where the circuit keeps them.

    **Edge circuits**: as many edges in each block of a channel graph, or into each sublayer (and
    into the logits) of a component graph. Nodes that no edge can touch stay as in the circuit.

    The null distribution: sites (blocks, sublayers) are visited in random order, and at each of
    them a set of the circuit's number is drawn uniformly. If the circuit has a path from the input
    to the output, the random one gets one, too: where no path through what was drawn so far and
    any of what was not survives, one of the drawn set, at random, is replaced by a node (edge) on
    such a path, at random. Beyond these numbers, and whether there is a path, nothing is taken from
    the circuit, so that two circuits of the same numbers have the same random ones. The number of
    edges of a random node circuit is not fixed.

    Without the path, a small random circuit in a sparse model has no connected edge and is the
    empty circuit by another name.
    """
    kept = parts_of(circuit)
    groups = _groups(circuit)
    drawn = kept.clone()
    for group in groups:
        drawn[group] = bool(kept[group].any())
    needs_path = circuit.connected().n_edges > 0

    for index in torch.randperm(len(groups), generator=generator).tolist():
        group = groups[index]
        candidate = drawn.clone()
        candidate[group] = _draw(len(group), int(kept[group].count_nonzero()), generator)
        if needs_path and rebuilt(circuit, candidate).connected().n_edges == 0:
            # A path visits a group at most once: any one member on a path mends it.
            on_path = parts_of(rebuilt(circuit, drawn).connected())[group]
            candidate[group[_any_of(candidate[group], generator)]] = False
            candidate[group[_any_of(on_path, generator)]] = True
        drawn = candidate
    return rebuilt(circuit, drawn)


def _groups(circuit: Circuit) -> list[Int[Tensor, " members"]]:
    """What is drawn together, as indices into `parts_of`: the nodes of a site, or the edges of a
    block or into a sublayer."""
    graph = circuit.graph
    if circuit.is_node_circuit:
        nodes = torch.arange(graph.n_nodes)
        slices = graph.node_slices.items()
        return [nodes[of_site] for name, of_site in slices if name not in graph.fixed_sites]
    edges = torch.arange(graph.n_edges)
    if isinstance(graph, ComponentGraph):
        rows = [sublayer.readers for sublayer in graph.sublayers] + [graph.logits_reader]
        # Edges are numbered row by row, and the rows of a sublayer are neighbours.
        sizes = [int(graph.block.support[row].count_nonzero()) for row in rows]
    else:
        sizes = [block.n_edges for block in graph.blocks.values()]
    return list(edges.split(sizes))


def _draw(n: int, k: int, generator: torch.Generator) -> Bool[Tensor, " n"]:
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=generator)[:k]] = True
    return chosen


def _any_of(mask: Bool[Tensor, " n"], generator: torch.Generator) -> int:
    """The index of one of the True entries, uniformly."""
    indices = mask.nonzero()[:, 0]
    return int(indices[torch.randint(len(indices), (1,), generator=generator)])
