"""A control method that ranks nodes or edges at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparse_lens.cost import CostMeter
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import BoundAblation
from sparse_lens.ranking_method import Ranking, RankingMethod
from sparse_lens.scores import Scores
from sparse_lens.task import Task


@dataclass(frozen=True)
class RandomScores(RankingMethod):
    """Uniform random scores: edges of a component graph, nodes of a channel graph.

    The size at which its circuits meet the target is what any other method has to beat.
    """

    objective: Objective = TaskLoss()
    """Not used; the target is a task loss for every method."""

    def rank(self, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter) -> Ranking:
        """Draw scores."""
        return Ranking(random_scores(bound.graph, seed=seed))


def random_scores(graph: Graph, *, seed: int) -> Scores:
    """Independent uniform scores."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(graph, ComponentGraph):
        values = torch.rand(graph.block.support.shape, generator=generator)
        return Scores(graph, edges={EDGES: values})
    return Scores(graph, nodes=graph.unflatten(torch.rand(graph.n_nodes, generator=generator)))
