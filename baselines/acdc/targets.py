"""What a threshold of ACDC is searched for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from sparse_lens.circuit import Circuit
from sparse_lens.objectives import KLDivergence, Objective

LossOf = Callable[[Circuit, Objective], float]
"""Mean loss of a circuit on the validation prompts."""

FIRST_THRESHOLD = 0.01
SMALLEST_THRESHOLD, LARGEST_THRESHOLD = 1e-8, 1e4


class Target(ABC):
    """Says on which side of the threshold sought a circuit lies."""

    @abstractmethod
    def needs_smaller(self, circuit: Circuit, loss_of: LossOf) -> bool:
        """Whether the circuit should be smaller, which takes a higher threshold."""


@dataclass(frozen=True)
class EdgeBudget(Target):
    """The largest circuit with at most this many edges."""

    n_edges: int

    def __post_init__(self) -> None:
        if self.n_edges < 0:
            raise ValueError(f"a budget of edges is 0 or more, got {self.n_edges}.")

    def needs_smaller(self, circuit: Circuit, loss_of: LossOf) -> bool:
        return circuit.n_edges > self.n_edges


@dataclass(frozen=True)
class LossTarget(Target):
    """The smallest circuit whose mean loss on the validation prompts is at most this."""

    loss: float
    objective: Objective = field(default_factory=KLDivergence)

    def needs_smaller(self, circuit: Circuit, loss_of: LossOf) -> bool:
        return loss_of(circuit, self.objective) <= self.loss


def bisect(run: Callable[[float], tuple[bool, int]], *, n_bisections: int) -> None:
    """Run the thresholds that lead to the one above which circuits need not be smaller any more.

    From 0.01 on, steps of a factor of ten find a threshold on either side; then the geometric
    middle of the two takes the place of one of them, `n_bisections` times, or until the circuits of
    both are equally large but for one edge.

    Args:
        run: runs a threshold; whether the circuit needs to be smaller, and its number of edges.
    """
    near = FIRST_THRESHOLD
    up, near_edges = run(near)
    while True:
        far = near * 10 if up else near / 10
        nothing_left = up and near_edges == 0
        if nothing_left or not SMALLEST_THRESHOLD <= far <= LARGEST_THRESHOLD:
            return
        turned, far_edges = run(far)
        if turned != up:
            break
        near, near_edges = far, far_edges
    (low, at_low), (high, at_high) = sorted([(near, near_edges), (far, far_edges)])
    for _ in range(n_bisections):
        if abs(at_low - at_high) <= 1:
            return
        middle = math.sqrt(low * high)
        up, n_edges = run(middle)
        if up:
            low, at_low = middle, n_edges
        else:
            high, at_high = middle, n_edges
