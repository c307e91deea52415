"""Stability: whether a method finds the same circuit from other draws of the train prompts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from sparse_lens.circuit import Circuit
from sparse_lens.evals.found_again import CircuitOf, chosen_circuit, chosen_for, found_again
from sparse_lens.evals.question import STABILITY, Answers, Column, Question, Subject
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
        result = prompt_stability(
            subject.method,
            subject.bound,
            subject.task,
            resamples=self.resamples,
            circuit_of=chosen_for(subject),
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
                group=STABILITY,
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


def prompt_stability(
    method: Method,
    bound: BoundAblation,
    task: Task,
    *,
    resamples: int = 5,
    circuit_of: CircuitOf = chosen_circuit,
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
    circuits = found_again(
        method,
        bound,
        task,
        splits=("train",),
        method_seeds=[seed] * resamples,
        circuit_of=circuit_of,
        seed=seed,
    )
    return PromptStabilityResult(circuits, resamples)


def _check_resamples(resamples: int) -> None:
    if resamples < 2:
        raise ValueError(f"agreement takes two resamples or more, got {resamples}.")
