"""First-order effects of cutting edges and nodes: gradients against (ablated - live)."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.patching.ablations.binding import BoundAblation
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

    Edge attribution patching (Syed et al. 2310.10348): the sum over positions and channels of the
    change in what the edge carries * gradient where it arrives. With interchange ablation one run
    gives the ablated values; one forward and backward pass gives all effects.

    Args:
        points: where gradients are taken, instead of at the live run alone.
        relp: propagate by the rules of RelP (see `sparse_lens.patching.gradients.relp`).
        copies: of the prompts in one pass at most, each at its own point. Leave it at 1 where
            hooks of others tell the rows of a batch apart.
    """
    points = points or GradientPoints()
    if isinstance(bound.graph, ComponentGraph):
        edges = component_edge_effects(bound, prompts, objective, points, relp=relp, copies=copies)
        return {EDGES: edges}
    return channel_edge_effects(bound, prompts, objective, points, relp=relp, copies=copies)


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

    On a component graph that is the sum over a writer's outgoing edges (ablating it cuts them
    all); there is none for the logits. The arguments are those of :func:`edge_effects`.
    """
    points = points or GradientPoints()
    graph = bound.graph
    if isinstance(graph, ComponentGraph):
        edges = component_edge_effects(bound, prompts, objective, points, relp=relp, copies=copies)
        effects = (edges * graph.block.support.to(edges.device)).sum(0)
        return {
            name: effects[where] for name, where in graph.node_slices.items() if name != "logits"
        }
    return channel_node_effects(bound, prompts, objective, points, relp=relp, copies=copies)
