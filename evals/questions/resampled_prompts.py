"""Whether a method finds the same circuit from other draws of the same train prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

import torch

from sparse_lens.circuit import Circuit
from sparse_lens.discovery import Discovery
from sparse_lens.method import Method
from sparse_lens.patching import BoundAblation
from sparse_lens.task import Task


@dataclass(frozen=True, eq=False)
class PromptStability:
    """Agreement of the circuits that one method found from resampled prompts."""

    circuits: tuple[Circuit, ...]
    """Of the resamples from which one was found."""

    n_resamples: int

    @property
    def ious(self) -> tuple[float, ...]:
        """What two circuits both keep over what either keeps, of every pair."""
        return tuple(one.iou(other) for one, other in combinations(self.circuits, 2))

    @property
    def mean_iou(self) -> float | None:
        """Mean over pairs; None for fewer than two circuits."""
        return fmean(self.ious) if self.ious else None


def chosen_circuit(discovery: Discovery) -> Circuit | None:
    """The circuit that a method chose; None where none met its target.

    Raises:
        ValueError: when it had no validation prompts to choose on.
    """
    if discovery.chosen is not None and not discovery.chosen.met_target:
        return None
    return discovery.circuit


def prompt_stability(
    method: Method,
    bound: BoundAblation,
    task: Task,
    *,
    resamples: int = 5,
    circuit_of: Callable[[Discovery], Circuit | None] = chosen_circuit,
    seed: int = 0,
) -> PromptStability:
    """Run a method again on bootstrap resamples of the train prompts.

    Prompts are drawn with replacement, each by itself, as many as there are; the validation prompts
    stay as they are, and so does the method's own seed. For agreement over seeds see
    `sparse_lens.evals.stability`.

    Args:
        resamples: how often it is run.
        circuit_of: the circuit of a discovery, such as `lambda found: found.at(n_edges=100)`.
        seed: of the resampling, and of the method.
    """
    if resamples < 2:
        raise ValueError(f"agreement takes two resamples or more, got {resamples}.")
    generator = torch.Generator().manual_seed(seed)
    n, device = len(task.train), task.train.clean.device
    found = []
    for _ in range(resamples):
        drawn = torch.randint(n, (n,), generator=generator).to(device)
        again = replace(task, train=task.train[drawn])
        discovery = method.discover(bound.model, bound.graph, again, ablation=bound, seed=seed)
        found.append(circuit_of(discovery))
    circuits = tuple(circuit for circuit in found if circuit is not None)
    return PromptStability(circuits, resamples)
