"""Which removals to try in one pass, when the decisions before them are not known yet."""

import heapq
from collections.abc import Iterator, Sequence
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


def changes_in(trials: Sequence[Trial], losses: Sequence[float], loss: float) -> list[float]:
    """By how much each trial's removal changes the loss, if the decisions it assumes are right.

    Args:
        losses: in each trial.
        loss: before all of them.
    """
    before: list[float] = []
    for trial in trials:
        if trial.parent is None:
            before.append(loss)
        else:
            before.append(losses[trial.parent] if trial.parent_goes else before[trial.parent])
    return [after - own for after, own in zip(losses, before, strict=True)]


def true_path(trials: Sequence[Trial], goes: Sequence[bool]) -> Iterator[int]:
    """The trials whose assumptions are all right, one for each edge in turn.

    Args:
        goes: what each trial would decide of its edge.
    """
    following = {(trial.parent, trial.parent_goes): i for i, trial in enumerate(trials)}
    place: int | None = 0
    while place is not None:
        yield place
        place = following.get((place, goes[place]))


def best_informed(trials: Sequence[Trial], decided: Sequence[bool]) -> dict[int, int]:
    """For each edge tried, the trial that assumed the fewest decisions wrongly."""
    errors: list[int] = []
    best: dict[int, int] = {}
    for place, trial in enumerate(trials):
        before = trial.edge - 1
        is_wrong = 0 <= before < len(decided) and decided[before] != trial.parent_goes
        errors.append(is_wrong + (0 if trial.parent is None else errors[trial.parent]))
        if trial.edge not in best or errors[place] < errors[best[trial.edge]]:
            best[trial.edge] = place
    return best
