"""Greedy removal: what harms least goes first, as long as the target is met."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from sparse_lens.cost import CostMeter
from sparse_lens.patching import BoundAblation, Kept
from sparse_lens.refinement.judge import Judge
from sparse_lens.refinement.units import Edges, Nodes, Removable, as_edges
from sparse_lens.search import Calibrate, ChosenCircuit
from sparse_lens.target import Target
from sparse_lens.task import Task

Unit = TypeVar("Unit")


def refined(
    bound: BoundAblation,
    chosen: ChosenCircuit,
    task: Task,
    *,
    target: Target,
    meter: CostMeter,
    n_passes: int = 3,
    edges: bool = False,
    calibrate: Calibrate | None = None,
) -> ChosenCircuit:
    """A chosen circuit without the nodes, and then the edges, that it can do without.

    A circuit that does not meet its target is returned as it is. A node circuit stays one where
    the edges between its nodes alone do not meet the target, also after removals: an AbsTopK can
    need what kept nodes send to pruned ones.

    Args:
        target: what it keeps, by the target's margin, on the train and validation prompts together
            and on the validation prompts alone; under conditions, on each of the two alone.
        meter: counts the passes through parts of the model.
        n_passes: how often, at most, the units are ranked and gone through.
        edges: whether to remove edges, too; the result is then an edge circuit.
        calibrate: as when the circuit was chosen.
    """
    if not chosen.met_target or n_passes == 0:
        return chosen
    judge = Judge(bound, task, target=target, calibrate=calibrate)
    kept = remove(judge, Kept.of(chosen.circuit), Nodes(), n_passes=n_passes)
    if edges:
        cut = remove(judge, as_edges(kept), Edges(), n_passes=n_passes)
        if judge.judge_within(cut, judge.judge_under(kept)) is not None:
            kept = cut
    judged = judge.judge(kept)
    meter.forward_passes += judge.uncounted_passes
    return replace(
        chosen, circuit=kept.circuit(), loss=judged.validation.mean, calibration=judged.calibration
    )


def remove(judge: Judge, kept: Kept, removable: Removable[Unit], *, n_passes: int) -> Kept:
    """Take units away one at a time, those first whose loss alone costs least.

    In each pass all units are ranked by the loss without them (of equal ones the earlier in the
    graph comes first), then tried in this order: what leaves the circuit within the limit is gone.
    The last pass is the first that removes nothing, or the `n_passes`-th. A pass that ends at a
    circuit which fails in trials of its own is undone, and the next pass knows these trials.
    """
    judge.add_trials(kept)
    for _ in range(n_passes):
        judge.rebase(kept)
        smaller = _one_pass(judge, kept, removable)
        if smaller is kept:
            break
        if judge.add_trials(smaller):
            kept = smaller
    return kept


def _one_pass(judge: Judge, kept: Kept, removable: Removable[Unit]) -> Kept:
    current = judge.judge_under(kept)
    units = removable.units(kept)
    harms = [judge.judge(removable.without(kept, unit)).together.mean for unit in units]
    for index in sorted(range(len(units)), key=harms.__getitem__):
        if not removable.keeps(kept, units[index]):
            continue  # it went with another
        smaller = removable.without(kept, units[index])
        judged = judge.judge_within(smaller, current)
        if judged is not None:
            kept, current = smaller, judged
            judge.rebase(kept)
    return kept
