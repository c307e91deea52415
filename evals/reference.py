"""Comparison with a known circuit: precision, recall and the area under the ROC curve."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.scores import Scores


@dataclass(frozen=True)
class Overlap:
    """What a circuit shares with a reference: nodes of node circuits, edges of edge circuits."""

    precision: float
    """The share of the circuit that is in the reference; 1 for an empty circuit."""

    recall: float
    """The share of the reference that is in the circuit; 1 for an empty reference."""


def overlap(circuit: Circuit, reference: Circuit) -> Overlap:
    """Precision and recall of a circuit.

    Raises:
        ValueError: when they belong to different graphs, or one is given by its nodes and the
            other by its edges.
    """
    if circuit.is_node_circuit != reference.is_node_circuit:
        raise ValueError(
            "one of the two is a node circuit and the other an edge circuit; compare what is given "
            "by the same parts."
        )
    both = circuit & reference
    count = (lambda c: c.n_nodes) if circuit.is_node_circuit else (lambda c: c.n_edges)
    return Overlap(
        precision=count(both) / count(circuit) if count(circuit) else 1.0,
        recall=count(both) / count(reference) if count(reference) else 1.0,
    )


def auroc(scores: Scores, reference: Circuit) -> float:
    """Area under the receiver operating characteristic of scores.

    The probability that a part of the reference circuit scores above one that is not in it, ties
    counted as one half; 1/2 for chance. Edges for scores of edges, nodes for scores of nodes.

    Raises:
        ValueError: when they belong to different graphs, or the reference is empty or everything.
    """
    if scores.graph != reference.graph:
        raise ValueError(f"scores are of {scores.graph}, the reference of {reference.graph}.")
    graph = scores.graph
    if scores.nodes is None:
        inside = graph.flatten_edges({block: reference.edge_mask(block) for block in graph.blocks})
    else:
        inside = graph.flatten(reference.node_masks)
    n_inside, n_outside = int(inside.sum()), int((~inside).sum())
    if not n_inside or not n_outside:
        raise ValueError(
            f"the reference has {n_inside} of {len(inside)} parts of the graph; an area takes "
            "some that are in it and some that are not."
        )
    ranks = _ranks(scores.importance)
    above = ranks[inside].sum() - n_inside * (n_inside + 1) / 2
    return float(above / (n_inside * n_outside))


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """From 1 for the smallest; equal values share the mean of their ranks."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[which]
