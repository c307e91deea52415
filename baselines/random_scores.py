"""The control: a random ranking of nodes or edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.method import Discovery, Method, metered
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import BoundAblation, bind
from sparse_lens.scores import Scores
from sparse_lens.search import choose_circuit
from sparse_lens.task import Task


@dataclass(frozen=True)
class RandomScores(Method):
    """Uniform random scores: edges of a component graph, nodes of a channel graph.

    What a method must beat: how large a circuit must be to meet the target by chance.
    """

    objective: Objective = TaskLoss()
    """Not used; the target is a task loss for every method."""

    target_loss: float = 0.15
    """Two-way task loss, in nats on the validation prompts, that the chosen circuit meets."""

    def discover(
        self,
        model: HookedTransformer,
        graph: Graph,
        task: Task,
        *,
        ablation: Ablation | BoundAblation,
        seed: int = 0,
    ) -> Discovery:
        """Draw scores; choose the smallest circuit on the validation prompts, if there are any."""
        with metered(model) as meter:
            bound = bind(model, graph, ablation)
            scores = random_scores(graph, seed=seed)
            chosen = None
            if task.validation is not None:
                chosen = choose_circuit(bound, scores, task, target_loss=self.target_loss)
            cost = meter.cost()
        return Discovery(
            method=self, task=task.name, scores=scores, chosen=chosen, cost=cost, seed=seed
        )


def random_scores(graph: Graph, *, seed: int) -> Scores:
    """Independent uniform scores."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(graph, ComponentGraph):
        return Scores(
            graph, edges={EDGES: torch.rand(graph.edge_support[EDGES].shape, generator=generator)}
        )
    return Scores(graph, nodes=graph.unflatten(torch.rand(graph.n_nodes, generator=generator)))
