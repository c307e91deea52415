"""Greedy removal: what harms least goes first, as long as the target is met."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from sparse_lens.cost import CostMeter
from sparse_lens.patching import BoundAblation, Kept
from sparse_lens.refinement.judge import Judge, Judged
from sparse_lens.refinement.units import Edges, Nodes, Removable, as_edges
from sparse_lens.search import MARGIN, Calibrate, ChosenCircuit
from sparse_lens.task import Task

Unit = TypeVar("Unit")


def refined(
    bound: BoundAblation,
    chosen: ChosenCircuit,
    task: Task,
    *,
    target_loss: float,
    meter: CostMeter,
    n_passes: int = 3,
    edges: bool = False,
    margin: float = MARGIN,
    calibrate: Calibrate | None = None,
) -> ChosenCircuit:
    """A chosen circuit without the nodes, and then the edges, that it can do without.

    A circuit that does not meet its target is returned as it is. A node circuit stays one where
    the edges between its nodes alone do not meet the target, also after removals: an AbsTopK can
    need what kept nodes send to pruned ones.

    Args:
        target_loss: two-way task loss, in nats, that it keeps on the train and validation prompts
            together and on the validation prompts alone.
        meter: counts the passes through parts of the model.
        n_passes: how often, at most, the units are ranked and gone through.
        edges: whether to remove edges, too; the result is then an edge circuit.
        margin: how many standard errors of the mean both losses must stay below the target.
        calibrate: as when the circuit was chosen.
    """
    if not chosen.met_target or n_passes == 0:
        return chosen
    judge = Judge(bound, task, margin=margin, calibrate=calibrate)
    kept = remove(judge, Kept.of(chosen.circuit), Nodes(), limit=target_loss, n_passes=n_passes)
    if edges:
        cut = remove(judge, as_edges(kept), Edges(), limit=target_loss, n_passes=n_passes)
        if judge.judge_within(cut, target_loss, judge.judge(kept)) is not None:
            kept = cut
    judged = judge.judge(kept)
    meter.forward_passes += judge.uncounted_passes
    return replace(
        chosen, circuit=kept.circuit(), loss=judged.validation.mean, calibration=judged.calibration
    )


def remove(
    judge: Judge, kept: Kept, removable: Removable[Unit], *, limit: float, n_passes: int
) -> Kept:
    """Take units away one at a time, those first whose loss alone costs least.

    In each pass all units are ranked by the loss without them (of equal ones the earlier in the
    graph comes first), then tried in this order: what leaves the circuit within the limit is gone.
    The last pass is the first that removes nothing, or the `n_passes`-th.
    """
    current = judge.judge(kept)
    for _ in range(n_passes):
        judge.rebase(kept)
        smaller, current = _one_pass(judge, kept, current, removable, limit)
        if smaller is kept:
            break
        kept = smaller
    return kept


def _one_pass(
    judge: Judge, kept: Kept, current: Judged, removable: Removable[Unit], limit: float
) -> tuple[Kept, Judged]:
    units = removable.units(kept)
    harms = [judge.judge(removable.without(kept, unit)).together.mean for unit in units]
    for index in sorted(range(len(units)), key=harms.__getitem__):
        if not removable.keeps(kept, units[index]):
            continue  # it went with another
        smaller = removable.without(kept, units[index])
        judged = judge.judge_within(smaller, limit, current)
        if judged is not None:
            kept, current = smaller, judged
            judge.rebase(kept)
    return kept, current
