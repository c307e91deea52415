"""Which removals to try in one pass, before the decisions that they depend on are known.

The trials form a tree: each is the removal of an edge under an assumed decision on the edge before
it, and so on back to the first edge. Once the losses of all trials are known, the path of those
whose assumptions are right gives the decisions.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """The removal of an edge under assumed decisions on those before it."""

    edge: int
    """Its index among the undecided edges."""

    parent: int | None
    """The trial of the edge before it; None for the first edge."""

    parent_goes: bool
    """Whether the edge before it is assumed to be removed."""


def likely_trials(
    removal_probabilities: Sequence[float], *, most: int, pass_cost: float
) -> list[Trial]:
    """The trials most likely to be needed, parents first.

    A trial is needed if the decisions that it assumes turn out right: its probability is the
    product of theirs. Trials are added in descending order of it, as long as that raises the
    expected number of decisions per unit of cost.

    Args:
        removal_probabilities: by undecided edge, in the order of decisions.
        most: how many trials to return at most.
        pass_cost: the fixed cost of a pass, in units of the cost of a trial.
    """
    trials: list[Trial] = []
    expected_decisions = 0.0
    n_pushed = 1  # of equally likely trials the one that was pushed first is popped first
    heap = [(-1.0, 0, Trial(0, None, False))]  # by minus the probability that it is needed
    while heap and len(trials) < most:
        minus_probability, _, trial = heapq.heappop(heap)
        # With D decisions expected of n trials, (D + p) / (C + n + 1) > D / (C + n) if and only if
        # p (C + n) > D.
        if -minus_probability * (pass_cost + len(trials)) < expected_decisions:
            break
        expected_decisions -= minus_probability
        parent = len(trials)
        trials.append(trial)
        if trial.edge + 1 < len(removal_probabilities):
            probability = removal_probabilities[trial.edge]
            for parent_goes, share in ((True, probability), (False, 1 - probability)):
                child = Trial(trial.edge + 1, parent, parent_goes)
                heapq.heappush(heap, (minus_probability * share, n_pushed, child))
                n_pushed += 1
    return trials


def changes_in(trials: Sequence[Trial], losses: Sequence[float], loss: float) -> list[float]:
    """By how much each trial's removal changes the loss, given the decisions that it assumes.

    Args:
        losses: of the circuit of each trial.
        loss: of the circuit before any trial.
    """
    losses_before: list[float] = []
    for trial in trials:
        if trial.parent is None:
            losses_before.append(loss)
        else:
            of_parent = losses if trial.parent_goes else losses_before
            losses_before.append(of_parent[trial.parent])
    return [after - before for after, before in zip(losses, losses_before, strict=True)]


def true_path(trials: Sequence[Trial], removes: Sequence[bool]) -> Iterator[int]:
    """Indices of the trials whose assumptions are all right, one for each edge in turn.

    Args:
        removes: whether the edge of each trial is removed, by the change of the loss.
    """
    children = {(trial.parent, trial.parent_goes): i for i, trial in enumerate(trials)}
    index: int | None = 0
    while index is not None:
        yield index
        index = children.get((index, removes[index]))


def best_informed(trials: Sequence[Trial], decided: Sequence[bool]) -> dict[int, int]:
    """For each edge tried, the index of the trial with the fewest wrong assumptions.

    Args:
        decided: whether each decided edge was removed; assumptions on later edges count as right.
    """
    n_wrong: list[int] = []
    best: dict[int, int] = {}
    for index, trial in enumerate(trials):
        edge_before = trial.edge - 1
        is_wrong = 0 <= edge_before < len(decided) and decided[edge_before] != trial.parent_goes
        n_wrong.append(is_wrong + (0 if trial.parent is None else n_wrong[trial.parent]))
        if trial.edge not in best or n_wrong[index] < n_wrong[best[trial.edge]]:
            best[trial.edge] = index
    return best
