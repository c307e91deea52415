"""The smallest circuit that meets a target loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.calibration import Calibration
from sparse_lens.circuit import Circuit
from sparse_lens.objectives import TaskLoss
from sparse_lens.patching import BoundAblation, answer_logits, patched
from sparse_lens.scores import Scores
from sparse_lens.task import Prompts, Task

BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class ChosenCircuit:
    """The circuit that a search settled on, with its loss as measured."""

    circuit: Circuit
    loss: float
    """Two-way task loss on the validation prompts."""

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
    target_loss: float,
    calibrate: Calibrate | None = None,
) -> ChosenCircuit:
    """The smallest circuit of the best nodes or edges that meets a loss on the validation prompts.

    Args:
        target_loss: largest two-way task loss that will do, in nats.
        calibrate: fits a calibration of each circuit's logits on the train prompts first.
    """
    train, validation = task.train.to(bound.device), task.split("validation").to(bound.device)
    graph = bound.graph

    def circuit_of(size: int) -> Circuit:
        return scores.top(n_edges=size) if scores.nodes is None else scores.top(n_nodes=size)

    def calibration_of(circuit: Circuit) -> Calibration | None:
        if calibrate is None:
            return None
        return calibrate(circuit_logits(bound, circuit, train), train)

    def loss_at(size: int) -> float:
        circuit = circuit_of(size)
        calibration = calibration_of(circuit)
        loss = TaskLoss() if calibration is None else calibration.loss
        return float(loss(circuit_logits(bound, circuit, validation), validation).mean())

    largest = graph.n_nodes if scores.nodes is not None else graph.n_edges
    size, met_target, tried = smallest_size(loss_at, largest, target=target_loss)
    circuit = circuit_of(size)
    return ChosenCircuit(circuit, dict(tried)[size], met_target, tried, calibration_of(circuit))


@torch.no_grad()
def circuit_logits(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    freeze_norm_scales: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Float[Tensor, "n vocab"]:
    """Logits at the answer positions when the model is the circuit.

    Args:
        freeze_norm_scales: norms divide by what they divide by in the full model.
    """
    parts = []
    for batch, its_ablation in bound.batches(prompts, batch_size):
        with patched(
            bound.model,
            circuit,
            ablation=its_ablation,
            prompts=batch,
            freeze_norm_scales=freeze_norm_scales,
        ):
            parts.append(answer_logits(bound.model, batch))
    return torch.cat(parts)


def smallest_size(
    loss_at: Callable[[int], float],
    largest: int,
    *,
    target: float,
    grid_size: int = 24,
    rounds: int = 2,
) -> tuple[int, bool, tuple[tuple[int, float], ...]]:
    """The smallest size found whose loss is at most `target`.

    The loss need not fall with size, so bisection alone could settle anywhere: a geometric grid
    over all sizes is measured first, then, `rounds` times, a finer grid between the smallest size
    that meets the target and the next smaller one measured, and that gap is closed by bisection.

    Args:
        loss_at: measures a size; called once per size.
        largest: the full graph's size.
        target: largest loss that will do.

    Returns:
        The size (or `largest` when no measured size meets the target), whether it does, and
        everything measured.
    """
    if largest < 0:
        raise ValueError(f"sizes run from 0 to largest, got largest={largest}.")
    measured: dict[int, float] = {}

    def measure(sizes: list[int]) -> None:
        for size in sizes:
            if size not in measured:
                measured[size] = loss_at(size)

    measure([largest, *_geometric(0, largest, grid_size)])
    for _ in range(rounds):
        below, best = _bracket(measured, target)
        if best is None:
            return largest, False, tuple(measured.items())
        measure(_geometric(below, best, grid_size // 3))
    while True:
        below, best = _bracket(measured, target)
        if best is None or best - below <= 1:
            break
        measure([(below + best) // 2])
    assert best is not None
    return best, True, tuple(measured.items())


def _bracket(measured: dict[int, float], target: float) -> tuple[int, int | None]:
    """The smallest size that meets the target, and the largest measured below it (or -1)."""
    meeting = [size for size, loss in measured.items() if loss <= target]
    if not meeting:
        return -1, None
    best = min(meeting)
    return max((size for size in measured if size < best), default=-1), best


def _geometric(low: int, high: int, count: int) -> list[int]:
    """Sizes strictly between low and high (and 0), evenly spaced in their logarithm."""
    start = max(low, 0)
    if high - start < 2:
        return [0] if low < 0 < high else []
    ratio = (high + 1) / (start + 1)
    sizes = [round((start + 1) * ratio ** (i / count)) - 1 for i in range(count)]
    return sorted({size for size in sizes if low < size < high})
