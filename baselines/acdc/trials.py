"""Which removals to try in one pass, when the decisions before them are not known yet."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """The removal of an edge after certain decisions on those before it."""

    edge: int
    """Its place among the edges that are left."""

    parent: int | None
    """The trial of the edge before it; None for the first edge."""

    parent_goes: bool
    """What is assumed of the edge before it."""


def likely_trials(goes: Sequence[float], *, most: int, pass_cost: float) -> list[Trial]:
    """The trials most likely to be needed, parents first.

    A trial is needed if the decisions that it assumes are the right ones, so trials of unlikely
    decisions help only where the likely ones are uncertain. More are added as long as that raises
    the expected number of decisions per cost.

    Args:
        goes: how likely each edge is to go.
        pass_cost: of a pass, beside that of its trials, where that of a trial is 1.
    """
    trials: list[Trial] = []
    needed = 0.0
    heap = [(-1.0, 0, Trial(0, None, False))]
    n_seen = 1
    while heap and len(trials) < most:
        negative, _, trial = heapq.heappop(heap)
        if -negative * (pass_cost + len(trials)) < needed:
            break
        needed -= negative
        here = len(trials)
        trials.append(trial)
        if trial.edge + 1 < len(goes):
            for outcome, share in ((True, goes[trial.edge]), (False, 1 - goes[trial.edge])):
                heapq.heappush(
                    heap, (negative * share, n_seen, Trial(trial.edge + 1, here, outcome))
                )
                n_seen += 1
    return trials
