"""The exact effects of cutting single edges and ablating single nodes, without approximation.

If one edge alone is cut, everything before its destination is as in the full model. What arrives
there changes by what the edge carries of ablated - live, which is known from one run of the full
model. A pass therefore measures many cuts: the batch is repeated, and each copy has the change of
its own cut added at the cut's destination.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.exact.channel import channel_edges, channel_nodes
from sparse_lens.patching.exact.component import component_edges, component_nodes
from sparse_lens.patching.exact.passes import Passes
from sparse_lens.task import Prompts


@torch.no_grad()
def exact_edge_effects(
    bound: BoundAblation, prompts: Prompts, objective: Objective, *, rows: int = 64
) -> Mapping[str, Float[Tensor, "dst src"]]:
    """Change of the objective, summed over prompts, when each edge alone is cut; by block.

    Args:
        rows: batch size of a pass; each row is one prompt with one edge cut.
    """
    passes = Passes(bound, prompts, objective, rows)
    if isinstance(bound.graph, ComponentGraph):
        return {EDGES: component_edges(passes)}
    return channel_edges(passes)


@torch.no_grad()
def exact_node_effects(
    bound: BoundAblation, prompts: Prompts, objective: Objective, *, rows: int = 64
) -> Mapping[str, Float[Tensor, " width"]]:
    """Change of the objective, summed over prompts, when each node alone is ablated; by site.

    On a component graph the logits have none, and each node takes a pass of its own, since a node
    can act on others otherwise than through the residual stream.

    Args:
        rows: batch size of a pass on a channel graph; each row is one prompt with one channel
            ablated.
    """
    passes = Passes(bound, prompts, objective, rows)
    if isinstance(bound.graph, ComponentGraph):
        return component_nodes(passes)
    return channel_nodes(passes)
