"""The smallest circuit that meets a target loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sparse_lens.calibration import Calibration
from sparse_lens.circuit import Circuit
from sparse_lens.cost import CostMeter
from sparse_lens.patching import BoundAblation, circuit_logits
from sparse_lens.scores import Scores
from sparse_lens.target import Target, mean_of_worst, upper_bound
from sparse_lens.task import Prompts, Task


@dataclass(frozen=True, eq=False)
class ChosenCircuit:
    """The circuit that a search settled on, with its loss as measured."""

    circuit: Circuit
    loss: float
    """On the validation prompts: the two-way task loss, or where the target has several bounds or
    conditions, the loss that is furthest from its bound, scaled to `target.scale`."""

    met_target: bool
    """Whether the loss is at most the target; if no circuit's is, the full one is given."""

    tried: tuple[tuple[int, float], ...] = field(repr=False)
    """Every (number of nodes or edges, loss) that was measured, in order."""

    calibration: Calibration | None = None
    """That of the logits whose loss was measured, for methods that calibrate."""


Calibrate = Callable[[Tensor, Prompts], Calibration]


def choose_circuit(
    bound: BoundAblation,
    scores: Scores,
    task: Task,
    *,
    target: Target,
    calibrate: Calibrate | None = None,
    meter: CostMeter | None = None,
) -> ChosenCircuit:
    """The smallest circuit of the best nodes or edges that meets a target on validation prompts.

    Of many circuits the smallest that meets a target on a few prompts is one that was lucky on
    these. So a circuit has to meet it by a margin; only where none does, the target itself counts.

    Args:
        calibrate: fits a calibration of each circuit's logits on the train prompts first.
        meter: told of passes through parts of the model, which it does not see.
    """
    train, graph = task.train.to(bound.device), bound.graph
    on_train = bound if calibrate is None else bound.fixed(train)
    on_validation = target.bind(bound, task.split("validation"), meter=meter)
    means: dict[int, float] = {}
    bounds: dict[int, float] = {}

    def circuit_of(size: int) -> Circuit:
        return scores.top(n_edges=size) if scores.nodes is None else scores.top(n_nodes=size)

    def calibration_of(circuit: Circuit) -> Calibration | None:
        if calibrate is None:
            return None
        return calibrate(circuit_logits(on_train, circuit, train), train)

    def measure(size: int) -> None:
        circuit = circuit_of(size)
        losses = on_validation.losses(circuit, calibration_of(circuit))
        means[size], bounds[size] = mean_of_worst(losses), upper_bound(losses, target.margin)

    def measured(by_size: dict[int, float]) -> Callable[[int], float]:
        def loss_at(size: int) -> float:
            if size not in by_size:
                measure(size)
            return by_size[size]

        return loss_at

    largest = graph.n_nodes if scores.nodes is not None else graph.n_edges
    size, met, _ = smallest_size(measured(bounds), largest, target=target.scale)
    if not met:
        size, met, _ = smallest_size(measured(means), largest, target=target.scale)
    circuit = circuit_of(size)
    return ChosenCircuit(circuit, means[size], met, tuple(means.items()), calibration_of(circuit))


def smallest_size(
    loss_at: Callable[[int], float], largest: int, *, target: float, n_sizes: int = 48
) -> tuple[int, bool, tuple[tuple[int, float], ...]]:
    """The smallest size found whose loss is at most `target`.

    The loss need not fall with size, so bisection alone could settle anywhere. Measured are all
    halves of `largest`, and then, again and again, the middle (of the logarithm) of every gap
    between sizes below the smallest that meets the target, next to the lowest losses first. When
    `n_sizes` are measured, the gap below that size is closed by bisection.

    Args:
        loss_at: measures a size; called once per size.
        largest: the full graph's size.
        target: largest loss that will do.
        n_sizes: how many sizes to measure at most before bisection.

    Returns:
        The size (or `largest` when no measured size meets the target), whether it does, and
        everything measured.
    """
    if largest < 0:
        raise ValueError(f"sizes run from 0 to largest, got largest={largest}.")
    measured: dict[int, float] = {}
    halves = {largest >> i for i in range(largest.bit_length() + 1)}
    for size in sorted(halves, reverse=True):
        measured[size] = loss_at(size)
    best = min(_meeting(measured, target), default=largest)
    while len(measured) < n_sizes and (middles := _middles(measured, best)):
        for size in middles[: n_sizes - len(measured)]:
            if size < best:
                measured[size] = loss_at(size)
                best = size if measured[size] <= target else best
    if not _meeting(measured, target):
        return largest, False, tuple(measured.items())
    while best > 0 and best - 1 not in measured:
        below = max(size for size in measured if size < best)
        middle = (below + best) // 2
        measured[middle] = loss_at(middle)
        best = middle if measured[middle] <= target else best
    return best, True, tuple(measured.items())


def _meeting(measured: Mapping[int, float], target: float) -> list[int]:
    return [size for size, loss in measured.items() if loss <= target]


def _middles(measured: Mapping[int, float], best: int) -> list[int]:
    """The middles of the gaps between sizes up to the best one, most promising first."""
    sizes = sorted(size for size in measured if size <= best)
    lowest_next_to: dict[int, float] = {}
    for low, high in itertools.pairwise(sizes):
        middle = round(math.sqrt((low + 1) * (high + 1))) - 1
        if low < middle < high:
            losses = (loss for loss in (measured[low], measured[high]) if not math.isnan(loss))
            lowest_next_to[middle] = min(losses, default=math.inf)
    return sorted(lowest_next_to, key=lambda size: (lowest_next_to[size], size))
