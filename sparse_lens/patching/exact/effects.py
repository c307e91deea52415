"""What cutting each edge or ablating each node by itself does, without approximation.

Where one thing alone is cut, everything before it is as in the run of the whole model. So a pass
takes many cuts at once: the batch is repeated, and each copy has its own change added where it
arrives.
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
        rows: of a pass; each is one prompt with one edge cut.
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

    On a component graph there is none for the logits, and it is one pass a node: a node there may
    act on others otherwise than through the stream.

    Args:
        rows: of a pass on a channel graph; each is one prompt with one channel ablated.
    """
    passes = Passes(bound, prompts, objective, rows)
    if isinstance(bound.graph, ComponentGraph):
        return component_nodes(passes)
    return channel_nodes(passes)
