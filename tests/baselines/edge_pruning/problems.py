"""Tiny models to prune, and short runs of the method on them."""

from typing import Any

import torch
from torch import Tensor

from sparse_lens.ablation import InterchangeAblation
from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.discovery import Discovery
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.task import Task
from tests.patching import tiny

TASK = Task("random", train=tiny.prompts(10, padded=False))
# Gates that are half open from the first step on, so that a few steps tell runs apart.
SHORT: dict[str, Any] = {"n_steps": 6, "batch_size": 4, "initial_mean": 0.5, "initial_std": 1.0}


def tiny_problem(kind: str, **changes: Any) -> tuple[Any, Graph]:
    if kind == "component":
        model = tiny.dense("LN", **changes)
        return model, ComponentGraph.from_model(model)
    model = tiny.sparse("plain", **changes)
    return model, ChannelGraph.from_model(model)


def discover(kind: str, seed: int = 0, task: Task = TASK, **settings: Any) -> Discovery:
    model, graph = tiny_problem(kind)
    method = EdgePruning(**(SHORT | settings))
    return method.discover(model, graph, task, ablation=InterchangeAblation(), seed=seed)


def random(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


def at_start(graph: Graph, model: Any, **settings: Any) -> dict[str, float]:
    """The log alphas before any step."""
    method = EdgePruning(**({"n_steps": 1, "learning_rate": 0.0, "initial_std": 0.0} | settings))
    found = method.discover(model, graph, TASK, ablation=InterchangeAblation())
    return found.scores.by_name()
