"""The circuit that counts as a method's result."""

from __future__ import annotations

from sparse_lens.cost import CostMeter
from sparse_lens.discovery import Discovery
from sparse_lens.patching import BoundAblation
from sparse_lens.search import ChosenCircuit, choose_circuit
from sparse_lens.target import Target
from sparse_lens.task import Task


def choose(
    discovery: Discovery,
    bound: BoundAblation,
    task: Task,
    *,
    target: Target,
    meter: CostMeter | None = None,
) -> ChosenCircuit:
    """What the method chose; for a method without a target, what a search for it finds.

    Args:
        meter: told of passes through parts of the model, which it does not see.
    """
    if discovery.chosen is not None and discovery.method.takes_target:
        return discovery.chosen
    return choose_circuit(bound, discovery.scores, task, target=target, meter=meter)
