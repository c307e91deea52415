"""The circuit that counts as a method's result in a comparison."""

from __future__ import annotations

from dataclasses import fields

from sparse_lens.discovery import Discovery
from sparse_lens.method import Method
from sparse_lens.patching import BoundAblation
from sparse_lens.search import ChosenCircuit, choose_circuit
from sparse_lens.task import Task


def choose(
    discovery: Discovery, bound: BoundAblation, task: Task, *, target_loss: float
) -> ChosenCircuit:
    """What the method chose; for a method that knows no target, what a search finds.

    Args:
        target_loss: nats a prompt that the circuit must meet on the validation prompts.
    """
    if discovery.chosen is not None and takes_target(discovery.method):
        return discovery.chosen
    return choose_circuit(bound, discovery.scores, task, target_loss=target_loss)


def takes_target(method: Method) -> bool:
    """Whether a method has a field for the loss that its chosen circuit must meet."""
    return any(f.name == "target_loss" for f in fields(method))
