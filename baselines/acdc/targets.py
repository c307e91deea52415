"""What the threshold of ACDC can be bisected for, and the bisection."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.objectives import KLDivergence, Objective
from sparse_lens.target import upper_bound

LossesOf = Callable[[Circuit, Objective], Float[Tensor, " n"]]
"""Losses of a circuit on the validation prompts."""

FIRST_THRESHOLD = 0.01
SMALLEST_THRESHOLD, LARGEST_THRESHOLD = 1e-8, 1e4


class ThresholdTarget(ABC):
    """A condition on circuits that is met from some threshold on."""

    @abstractmethod
    def needs_smaller(self, circuit: Circuit, losses_of: LossesOf) -> bool:
        """Whether the circuit should be smaller, which takes a higher threshold."""


@dataclass(frozen=True)
class EdgeBudget(ThresholdTarget):
    """The largest circuit with at most this many edges."""

    n_edges: int

    def __post_init__(self) -> None:
        if self.n_edges < 0:
            raise ValueError(f"a budget of edges must be 0 or more, got {self.n_edges}.")

    def needs_smaller(self, circuit: Circuit, losses_of: LossesOf) -> bool:
        return circuit.n_edges > self.n_edges


@dataclass(frozen=True)
class LossTarget(ThresholdTarget):
    """The smallest circuit whose mean loss on the validation prompts is at most this."""

    loss: float
    objective: Objective = field(default_factory=KLDivergence)

    margin: float = 0.0
    """Standard errors of its mean by which the loss stays below that."""

    def needs_smaller(self, circuit: Circuit, losses_of: LossesOf) -> bool:
        return upper_bound(losses_of(circuit, self.objective), self.margin) <= self.loss


def bisect(run: Callable[[float], tuple[bool, int]], *, n_bisections: int) -> None:
    """Bisect for the threshold from which on circuits no longer need to be smaller.

    From 0.01 on, steps of a factor of ten find a threshold on either side. Then the geometric
    mean of the two replaces one of them, `n_bisections` times or until their circuits differ by at
    most one edge in size. Nothing is returned: `run` keeps the results.

    Args:
        run: runs a threshold; returns whether the circuit needs to be smaller, and its number of
            edges.
    """
    near = FIRST_THRESHOLD
    needs_smaller, near_edges = run(near)
    while True:
        far = near * 10 if needs_smaller else near / 10
        is_empty = needs_smaller and near_edges == 0
        if is_empty or not SMALLEST_THRESHOLD <= far <= LARGEST_THRESHOLD:
            return
        far_needs_smaller, far_edges = run(far)
        if far_needs_smaller != needs_smaller:
            break
        near, near_edges = far, far_edges
    (low, low_edges), (high, high_edges) = sorted([(near, near_edges), (far, far_edges)])
    for _ in range(n_bisections):
        if abs(low_edges - high_edges) <= 1:
            return
        middle = math.sqrt(low * high)
        needs_smaller, n_edges = run(middle)
        if needs_smaller:
            low, low_edges = middle, n_edges
        else:
            high, high_edges = middle, n_edges
