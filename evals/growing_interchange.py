"""A circuit whose nodes are set to the full model's values, layer after layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.metrics import CircuitMetrics, measure, with_full_logits
from sparse_lens.graphs import Graph
from sparse_lens.patching import BATCH_SIZE, BoundAblation, WithModelValues
from sparse_lens.task import Prompts


@dataclass(frozen=True, eq=False)
class InterchangeStep:
    """A circuit whose nodes up to some layer carry their values in the full model."""

    up_to: str
    """The last layer, such as `blocks.0`, or site outside the layers."""

    metrics: CircuitMetrics


def growing_interchange(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    batch_size: int = BATCH_SIZE,
) -> tuple[InterchangeStep, ...]:
    """A node circuit with its nodes interchanged up to one layer after the other.

    A node that is interchanged carries, at all positions, its value in the full model in place of
    the one that it computes in the circuit; what the circuit leaves out stays ablated. The nodes
    before the first layer and after the last one are a step each; where a circuit has no node there
    is no step. In the last one all nodes are as in the model, and what is missing is what the
    output reads beside them.

    Args:
        full_logits: the full model's, from `model_logits`, where they are at hand.

    Raises:
        ValueError: for an edge circuit.
    """
    if not circuit.is_node_circuit:
        raise ValueError(
            "nodes of an edge circuit carry their own value to some readers and an ablated one to "
            "others, so that they cannot be interchanged: pass a node circuit."
        )
    graph = circuit.graph
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    kept = graph.flatten(circuit.node_masks)
    interchanged, steps = torch.zeros_like(kept), []
    for up_to, nodes in _by_layer(graph):
        if not (nodes & kept).any():
            continue
        interchanged = interchanged | (nodes & kept)
        rest = Circuit.from_node_masks(graph, graph.unflatten(kept & ~interchanged))
        model_values = WithModelValues(bound.model, graph, bound, interchanged)
        metrics = measure(
            model_values, rest, prompts, full_logits=full_logits, batch_size=batch_size
        )
        steps.append(InterchangeStep(up_to, metrics))
    return tuple(steps)


def _by_layer(graph: Graph) -> Iterator[tuple[str, Bool[Tensor, " nodes"]]]:
    """The nodes of each layer, or of a site outside the layers, in forward order."""
    layers: dict[str, Bool[Tensor, " nodes"]] = {}
    for name, site in graph.sites.items():
        if name != "logits":
            layer = name if site.layer is None else f"blocks.{site.layer}"
            nodes = layers.setdefault(layer, torch.zeros(graph.n_nodes, dtype=torch.bool))
            nodes[graph.node_slices[name]] = True
    return iter(layers.items())
