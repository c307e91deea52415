"""Stability: whether a method finds the same circuit from other draws of the train prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

import torch

from sparse_lens.choosing import choose
from sparse_lens.circuit import Circuit
from sparse_lens.discovery import Discovery
from sparse_lens.evals.question import Answers, Column, Question, Subject
from sparse_lens.method import Method
from sparse_lens.patching import BoundAblation
from sparse_lens.task import Task


@dataclass(frozen=True)
class PromptStability(Question):
    """How alike the circuits are that the method chooses from resampled train prompts.

    Asking takes `resamples` more discoveries. See :func:`prompt_stability`.
    """

    resamples: int = 5
    """How often the method runs again."""

    def __post_init__(self) -> None:
        _check_resamples(self.resamples)

    def ask(self, subject: Subject) -> Answers:
        """How many runs met the target, and the agreement of every pair of their circuits."""

        def chosen(discovery: Discovery) -> Circuit | None:
            choice = choose(discovery, subject.bound, subject.task, target=subject.target)
            return choice.circuit if choice.met_target else None

        result = prompt_stability(
            subject.method,
            subject.bound,
            subject.task,
            resamples=self.resamples,
            circuit_of=chosen,
            seed=subject.seed,
        )
        return {"met_target": len(result.circuits), "ious": list(result.ious)}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The mean agreement."""
        return (
            Column(
                answer="ious",
                heading="IoU",
                title="agreement of circuits from resampled train prompts, mean over pairs",
                group="is it the same again",
                meaning=(
                    "The method runs again on train prompts that are drawn anew from its own, with "
                    "replacement: what two of the circuits both keep over what either keeps, 1 "
                    "where they are the same. Runs that miss the target do not count."
                ),
                form=".2f",
            ),
        )


@dataclass(frozen=True, eq=False)
class PromptStabilityResult:
    """Agreement of the circuits that one method found from resampled prompts."""

    circuits: tuple[Circuit, ...]
    """Of the resamples from which one was found."""

    n_resamples: int

    @property
    def ious(self) -> tuple[float, ...]:
        """What two circuits both keep over what either keeps, of every pair."""
        return tuple(first.iou(second) for first, second in combinations(self.circuits, 2))

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
) -> PromptStabilityResult:
    """Run a method again on bootstrap resamples of the train prompts.

    Prompts are drawn with replacement, each by itself, as many as there are; the validation prompts
    stay as they are, and so does the method's own seed. For agreement over seeds see
    `sparse_lens.evals.seed_stability`.

    Args:
        resamples: how often it is run.
        circuit_of: the circuit of a discovery, such as
            `lambda discovery: discovery.at(n_edges=100)`.
        seed: of the resampling, and of the method.
    """
    _check_resamples(resamples)
    generator = torch.Generator().manual_seed(seed)
    n, device = len(task.train), task.train.clean.device
    circuits = []
    for _ in range(resamples):
        rows = torch.randint(n, (n,), generator=generator).to(device)
        resampled = replace(task, train=task.train[rows])
        discovery = method.discover(bound.model, bound.graph, resampled, ablation=bound, seed=seed)
        circuit = circuit_of(discovery)
        if circuit is not None:
            circuits.append(circuit)
    return PromptStabilityResult(tuple(circuits), resamples)


def _check_resamples(resamples: int) -> None:
    if resamples < 2:
        raise ValueError(f"agreement takes two resamples or more, got {resamples}.")
