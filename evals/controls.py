"""Circuits that a circuit is compared with: what it leaves out, and random ones of its size."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.parts import ends_of, parts_of, rebuilt, whole_like


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
    """As many nodes (of a node circuit) or edges (of an edge circuit), uniformly at random.

    On a component graph the embedding and the logits are kept where the circuit keeps them, and
    the other nodes are drawn. Nodes that no edge can touch stay as in an edge circuit.
    """
    kept = parts_of(circuit)
    if not circuit.is_node_circuit:
        return rebuilt(circuit, _draw(len(kept), circuit.n_edges, generator))
    ends = ends_of(circuit.graph)
    drawn = kept & ends
    inner = kept[~ends]
    drawn[~ends] = _draw(len(inner), int(inner.count_nonzero()), generator)
    return rebuilt(circuit, drawn)


def _draw(n: int, k: int, generator: torch.Generator) -> Bool[Tensor, " n"]:
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=generator)[:k]] = True
    return chosen
