"""Attribution patching: first-order estimates of what cutting an edge or a node does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.method import Discovery, Method, metered
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import BoundAblation, bind, edge_effects, node_effects
from sparse_lens.scores import Scores
from sparse_lens.search import choose_circuit
from sparse_lens.task import Prompts, Task


@dataclass(frozen=True)
class AttributionPatching(Method):
    """Edge attribution patching (Syed et al. 2310.10348), and node attribution.

    A score estimates the change of the objective when the edge or node is cut, as a mean over
    prompts: the sum over positions and channels of (ablated - live value) * gradient. Two forward
    passes and one backward pass a batch give all scores.

    On a component graph edges are scored (nodes with `nodes=True`: the sum over a writer's
    outgoing edges); on a channel graph nodes.
    """

    objective: Objective = TaskLoss()

    nodes: bool = False
    """Score the nodes of a component graph instead of its edges."""

    target_loss: float = 0.15
    """Two-way task loss, in nats on the validation prompts, that the chosen circuit meets."""

    batch_size: int = 64
    """Prompts a pass; the scores do not depend on it."""

    def discover(
        self,
        model: HookedTransformer,
        graph: Graph,
        task: Task,
        *,
        ablation: Ablation | BoundAblation,
        seed: int = 0,
    ) -> Discovery:
        """Score on the train prompts; choose the smallest circuit on the validation prompts.

        Without a validation split there are scores, and circuits of any size, but none is chosen.
        """
        with metered(model) as meter:
            bound = bind(model, graph, ablation)
            scores = self._scores(bound, task.train.to(model.cfg.device or "cpu"))
            meter.backward_passes += -(-len(task.train) // self.batch_size)
            chosen = None
            if task.validation is not None:
                chosen = choose_circuit(bound, scores, task, target_loss=self.target_loss)
            cost = meter.cost()
        return Discovery(
            method=self,
            task=task.name,
            scores=scores,
            chosen=chosen,
            cost=cost,
            seed=seed,
        )

    def _scores(self, bound: BoundAblation, prompts: Prompts) -> Scores:
        graph, n = bound.graph, len(prompts)
        if isinstance(graph, ComponentGraph):
            effects = [edge_effects(bound, b, self.objective) for b in self._batches(prompts)]
            edges = torch.stack(effects).sum(0) / n
            if self.nodes:
                return Scores(graph, nodes=_outgoing(graph, edges))
            return Scores(graph, edges={EDGES: edges})
        totals: dict[str, Tensor] = {}
        for batch in self._batches(prompts):
            for name, effect in node_effects(bound, batch, self.objective).items():
                totals[name] = totals[name] + effect if name in totals else effect
        return Scores(graph, nodes={name: total / n for name, total in totals.items()})

    def _batches(self, prompts: Prompts) -> list[Prompts]:
        return list(prompts.batches(self.batch_size))


def _outgoing(graph: ComponentGraph, edges: Tensor) -> dict[str, Tensor]:
    """Nodes' scores: ablating a writer cuts all its edges. Embedding and logits always stay."""
    always = torch.tensor([torch.inf])
    nodes = torch.cat([edges.cpu().sum(0), always])
    nodes[: graph.n_inputs] = torch.inf
    return graph.unflatten(nodes)
