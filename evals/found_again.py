"""A method that runs again on other draws of its prompts, to see what it finds then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sparse_lens.choosing import choose
from sparse_lens.circuit import Circuit
from sparse_lens.discovery import Discovery
from sparse_lens.evals.question import Subject
from sparse_lens.method import Method
from sparse_lens.patching import BoundAblation
from sparse_lens.task import Task

CircuitOf = Callable[[Discovery], Circuit | None]
"""Which circuit of a discovery counts; None where there is none."""


def chosen_circuit(discovery: Discovery) -> Circuit | None:
    """The circuit that a method chose; None where none met its target.

    Raises:
        ValueError: when it had no validation prompts to choose on.
    """
    if discovery.chosen is not None and not discovery.chosen.met_target:
        return None
    return discovery.circuit


def chosen_for(subject: Subject) -> CircuitOf:
    """The circuit that a comparison would choose; None where none meets its target."""

    def chosen(discovery: Discovery) -> Circuit | None:
        choice = choose(discovery, subject.bound, subject.task, target=subject.target)
        return choice.circuit if choice.met_target else None

    return chosen


def found_again(
    method: Method,
    bound: BoundAblation,
    task: Task,
    *,
    splits: Sequence[str],
    method_seeds: Sequence[int],
    circuit_of: CircuitOf,
    seed: int,
) -> tuple[Circuit, ...]:
    """The circuits that a method finds on bootstrap resamples of its prompts.

    Prompts are drawn with replacement, each by itself, as many as there are.

    Args:
        splits: those that are drawn anew; the others stay as they are.
        method_seeds: the method's, one for each run.
        circuit_of: the circuit of a discovery; runs without one are left out.
        seed: of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    circuits = []
    for method_seed in method_seeds:
        resampled = _resampled(task, splits, generator)
        discovery = method.discover(
            bound.model, bound.graph, resampled, ablation=bound, seed=method_seed
        )
        circuit = circuit_of(discovery)
        if circuit is not None:
            circuits.append(circuit)
    return tuple(circuits)


def _resampled(task: Task, splits: Sequence[str], generator: torch.Generator) -> Task:
    drawn = {}
    for split in splits:
        prompts = task.split(split)
        rows = torch.randint(len(prompts), (len(prompts),), generator=generator)
        drawn[split] = prompts[rows.to(prompts.clean.device)]
    return replace(task, **drawn)
