"""The circuit that counts as a method's result."""

from __future__ import annotations

from sparse_lens.discovery import Discovery
from sparse_lens.patching import BoundAblation
from sparse_lens.search import MARGIN, ChosenCircuit, choose_circuit
from sparse_lens.task import Task


def choose(
    discovery: Discovery,
    bound: BoundAblation,
    task: Task,
    *,
    target_loss: float,
    margin: float = MARGIN,
) -> ChosenCircuit:
    """What the method chose; for a method without a target, what a search finds.

    Args:
        target_loss: nats a prompt that the circuit must meet on the validation prompts.
        margin: standard errors of the mean by which the search keeps the loss below that.
    """
    if discovery.chosen is not None and discovery.method.takes_target:
        return discovery.chosen
    return choose_circuit(bound, discovery.scores, task, target_loss=target_loss, margin=margin)
