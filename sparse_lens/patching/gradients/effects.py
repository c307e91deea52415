"""First-order effects of cutting edges and ablating nodes, on both kinds of graphs."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.gradients.attribution import Attribution
from sparse_lens.patching.gradients.channel import channel_edge_effects, channel_node_effects
from sparse_lens.patching.gradients.component import component_edge_effects
from sparse_lens.patching.gradients.points import GradientPoints
from sparse_lens.task import Prompts


def edge_effects(
    bound: BoundAblation,
    prompts: Prompts,
    objective: Objective,
    *,
    points: GradientPoints | None = None,
    relp: bool = False,
    copies: int = 1,
) -> Mapping[str, Float[Tensor, "dst src"]]:
    """Estimated change of the objective, summed over prompts, when each edge is cut; by block.

    Edge attribution patching (Syed et al. 2310.10348): the sum over positions and channels of
    (ablated - live) * gradient, where ablated and live are what the edge carries, and the gradient
    is that of the objective at the edge's destination. With interchange ablation one run gives the
    ablated values; one forward and backward pass gives all effects.

    Args:
        points: the runs in which gradients are taken; None for the live run.
        relp: compute gradients by the rules of RelP (see `sparse_lens.patching.gradients.relp`).
        copies: the largest number of copies of the prompts in one pass, each at its own point.
            Leave it at 1 if other hooks depend on a prompt's row in the batch.
    """
    points = points or GradientPoints()
    attribution = Attribution(bound, prompts, objective, points, relp, max_copies=copies)
    if isinstance(bound.graph, ComponentGraph):
        return {EDGES: component_edge_effects(attribution)}
    return channel_edge_effects(attribution)


def node_effects(
    bound: BoundAblation,
    prompts: Prompts,
    objective: Objective,
    *,
    points: GradientPoints | None = None,
    relp: bool = False,
    copies: int = 1,
) -> Mapping[str, Float[Tensor, " width"]]:
    """Estimated change of the objective, summed over prompts, when each node is ablated; by site.

    On a component graph it is the sum over a writer's outgoing edges, since ablating it cuts them
    all; the logits have none. The arguments are those of :func:`edge_effects`.
    """
    points = points or GradientPoints()
    attribution = Attribution(bound, prompts, objective, points, relp, max_copies=copies)
    graph = bound.graph
    if isinstance(graph, ComponentGraph):
        edges = component_edge_effects(attribution)
        effects = (edges * graph.block.support.to(edges.device)).sum(0)
        return {name: effects[graph.node_slices[name]] for name in graph.valued_sites}
    return channel_node_effects(attribution)
