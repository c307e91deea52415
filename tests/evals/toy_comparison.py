"""Tiny models, a task in their tokens, and methods that need no learning."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from sparse_lens.ablation import MeanAblation
from sparse_lens.cost import metered
from sparse_lens.discovery import Discovery
from sparse_lens.evals.budgets import EdgeBudgets
from sparse_lens.evals.records import Record
from sparse_lens.method import Method
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import bind
from sparse_lens.scores import Scores
from sparse_lens.search import ChosenCircuit, choose_circuit
from sparse_lens.target import PAPER, Target
from sparse_lens.task import Prompts, Task
from tests.graphs.tiny import sparse_model

BUDGETS = EdgeBudgets(fractions=(0.3, 1.0), counts=(2,))


def model(**changes: Any):
    """A sparse GPT with reference tokens, and weights dense enough that no two logits are equal."""
    sparse_gpt = sparse_model(density=0.7, **{"n_layer": 1, **changes})
    sparse_gpt.reference_tokens = torch.arange(40).reshape(5, 8) % 11
    return sparse_gpt


def prompts(n: int, seed: int) -> Prompts:
    """Pairs of random prompts, some padded; each is the corrupted prompt of the other."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(11, (n, 6), generator=generator)
    second = first.clone()
    second[:, 1] = (first[:, 1] + 1) % 11
    return Prompts(
        clean=torch.cat([first, second]),
        corrupted=torch.cat([second, first]),
        answers=torch.cat([torch.full((n,), 3), torch.full((n,), 7)]),
        distractors=torch.cat([torch.full((n,), 7), torch.full((n,), 3)]),
        lengths=torch.randint(3, 7, (n,), generator=generator).repeat(2),
    )


def task(name: str = "toy") -> Task:
    """A task that a model with random weights cannot do."""
    return Task(name, train=prompts(3, 0), validation=prompts(3, 1), held_out=prompts(4, 2))


@dataclass(frozen=True)
class ByIndex(Method):
    """Ranks nodes by a fixed rule, and searches for the target loss as real methods do."""

    objective: Objective = TaskLoss()
    step: int = 7
    target: Target = PAPER

    def discover(self, model, graph, task, *, ablation, seed=0):
        with metered(model) as meter:
            scores = _scores(graph, self.step + seed)
            bound = bind(model, graph, ablation)
            chosen = choose_circuit(bound, scores, task, target=self.target, meter=meter)
            return Discovery(self, task.name, scores, chosen, meter.cost(), seed)


@dataclass(frozen=True)
class EdgesByIndex(Method):
    """Ranks edges at random, and chooses no circuit."""

    objective: Objective = TaskLoss()

    def discover(self, model, graph, task, *, ablation, seed=0):
        generator = torch.Generator().manual_seed(seed)
        edges = {
            block: torch.rand(support.shape, generator=generator)
            for block, support in graph.edge_support.items()
        }
        with metered(model) as meter:
            return Discovery(self, task.name, Scores(graph, edges=edges), None, meter.cost(), seed)


@dataclass(frozen=True)
class Half(Method):
    """Chooses half of the nodes or edges, and reports that they meet the target."""

    objective: Objective = TaskLoss()
    edges: bool = False
    target: Target = PAPER

    def discover(self, model, graph, task, *, ablation, seed=0):
        ranking = EdgesByIndex() if self.edges else ByIndex()
        discovery = ranking.discover(model, graph, task, ablation=ablation, seed=seed)
        total = graph.n_edges if self.edges else graph.n_nodes
        size = {"n_edges" if self.edges else "n_nodes": (total + 1) // 2}
        chosen = ChosenCircuit(discovery.at(**size), 0.0, True, ())
        return replace(discovery, method=self, chosen=chosen)


@dataclass(frozen=True)
class Failing(Method):
    """Raises an error."""

    objective: Objective = TaskLoss()

    def discover(self, model, graph, task, *, ablation, seed=0):
        raise ZeroDivisionError("no circuit today")


@dataclass(frozen=True)
class Dying(Method):
    """Ends its process, as running out of memory does."""

    objective: Objective = TaskLoss()

    def discover(self, model, graph, task, *, ablation, seed=0):
        os._exit(3)


@dataclass(frozen=True)
class Slow(ByIndex):
    """Sleeps before it does what `ByIndex` does."""

    seconds: float = 0.0

    def discover(self, model, graph, task, *, ablation, seed=0):
        time.sleep(self.seconds)
        return super().discover(model, graph, task, ablation=ablation, seed=seed)


def without_durations(record: Record) -> Record:
    """A record with zero for its times, which differ from run to run."""
    return replace(record, seconds=0.0, job_seconds=0.0)


def bound(graph, model):
    """Mean ablation over the model's reference tokens, bound to the model."""
    return bind(model, graph, MeanAblation())


def _scores(graph, step: int) -> Scores:
    values = (torch.arange(graph.n_nodes) * step % 101).float()
    return Scores(graph, nodes=graph.unflatten(values))
