"""What methods have in common that rank nodes or edges and take the best of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation
from sparse_lens.cost import CostMeter, metered
from sparse_lens.discovery import Discovery
from sparse_lens.graphs.base import Graph
from sparse_lens.method import Method, check_task
from sparse_lens.patching import BoundAblation, bind
from sparse_lens.scores import Scores
from sparse_lens.search import Calibrate, ChosenCircuit, choose_circuit
from sparse_lens.target import PAPER, Target
from sparse_lens.task import Task


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores, with how they came about."""

    scores: Scores

    history: tuple[Mapping[str, float], ...] = ()
    """The course of an optimisation, a row a step."""

    chosen: ChosenCircuit | None = None
    """The circuit that the target asks for, where the method had to find it already."""

    warnings: tuple[str, ...] = ()
    """What went wrong, in sentences."""


@dataclass(frozen=True)
class RankingMethod(Method):
    """A method whose circuits are the best nodes or edges of a ranking.

    A subclass says how to `rank`; the smallest circuit of the best that meets `target` on the
    validation prompts is then found in the same way for every method.
    """

    target: Target = PAPER
    """What the chosen circuit meets on the validation prompts."""

    @abstractmethod
    def rank(self, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter) -> Ranking:
        """Rank the nodes or the edges of `bound.graph` by the task's train prompts.

        Args:
            bound: the ablation, with the model and the graph.
            meter: counts forward passes of the model by itself; of backward passes, and of those
                through parts of the model, it has to be told.
        """

    def check(self, graph: Graph, task: Task) -> None:
        """Raise a ValueError, before anything is computed, for what cannot be ranked."""

    def finish(
        self, bound: BoundAblation, chosen: ChosenCircuit, task: Task, meter: CostMeter
    ) -> ChosenCircuit:
        """What becomes of the chosen circuit in the end: itself, if not overridden."""
        return chosen

    def discover(
        self,
        model: HookedTransformer,
        graph: Graph,
        task: Task,
        *,
        ablation: Ablation | BoundAblation,
        seed: int = 0,
    ) -> Discovery:
        """Rank on the train prompts; choose the smallest circuit on the validation prompts.

        Without a validation split there are scores, and circuits of any size, but none is chosen.

        Raises:
            ValueError: for a graph or a task that the method, as it is set, cannot work on, or a
                task in tokens that the model lacks.
        """
        check_task(model, task)
        self.check(graph, task)
        # Callers may have switched gradients off, which some methods need.
        with torch.enable_grad(), metered(model) as meter:
            bound = bind(model, graph, ablation)
            ranking = self.rank(bound, task, seed=seed, meter=meter)
            chosen = None
            if task.validation is not None:
                chosen = ranking.chosen or self._choose(bound, ranking.scores, task, meter)
                chosen = self.finish(bound, chosen, task, meter)
            cost = meter.cost()
        return Discovery(
            method=self,
            task=task.name,
            scores=ranking.scores,
            chosen=chosen,
            cost=cost,
            seed=seed,
            history=ranking.history,
            warnings=ranking.warnings,
        )

    def _choose(
        self, bound: BoundAblation, scores: Scores, task: Task, meter: CostMeter
    ) -> ChosenCircuit:
        """The smallest circuit of the best that meets the target on the validation prompts."""
        return choose_circuit(
            bound,
            scores,
            task,
            target=self.target,
            calibrate=self._calibrate,
            meter=meter,
        )

    @property
    def _calibrate(self) -> Calibrate | None:
        """What is fitted on the train prompts before a circuit's loss is taken."""
        return None


def ranking_of(
    method: Method, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter
) -> Ranking:
    """The ranking of a method that works for another one, which pays for it.

    Its search for a circuit is left out, where it can be.
    """
    if isinstance(method, RankingMethod):
        method.check(bound.graph, task)
        return method.rank(bound, task, seed=seed, meter=meter)
    return Ranking(discovery_of(method, bound, task, seed=seed, meter=meter).scores)


def discovery_of(
    method: Method, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter
) -> Discovery:
    """The discovery of a method that works for another one, which pays for it."""
    before = meter.forward_passes
    discovery = method.discover(bound.model, bound.graph, task, ablation=bound, seed=seed)
    # Also what the meter has not seen, and not twice what it has.
    meter.forward_passes = before + discovery.cost.forward_passes
    meter.backward_passes += discovery.cost.backward_passes
    return discovery
