"""What ACDC tries in one pass: the likeliest decisions, and what tells how likely they are."""

import itertools
import math

import pytest

from sparse_lens.baselines.acdc.guesses import Guesses
from sparse_lens.baselines.acdc.pruning_run import Rule
from sparse_lens.baselines.acdc.trials import (
    Trial,
    best_informed,
    changes_in,
    likely_trials,
    true_path,
)
from sparse_lens.graphs import ComponentGraph
from tests.patching import tiny


def all_trials(goes: list[float]) -> dict[tuple[bool, ...], float]:
    """Decisions before each possible trial, and how likely these are."""
    found: dict[tuple[bool, ...], float] = {}
    for n in range(len(goes)):
        for path in itertools.product((True, False), repeat=n):
            shares = [p if go else 1 - p for p, go in zip(goes, path, strict=False)]
            found[path] = math.prod(shares)
    return found


def paths_of(trials: list[Trial]) -> list[tuple[bool, ...]]:
    paths: list[tuple[bool, ...]] = []
    for trial in trials:
        before = () if trial.parent is None else (*paths[trial.parent], trial.parent_goes)
        assert len(before) == trial.edge
        paths.append(before)
    return paths


@pytest.mark.parametrize("pass_cost", [0.0, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("goes", [[0.9, 0.55, 0.97, 0.2, 0.7], [1.0, 0.0, 1.0], [0.5]])
def test_the_likeliest_trials_are_those_that_decide_most_per_cost(
    goes: list[float], pass_cost: float
) -> None:
    likely = all_trials(goes)
    for most in (1, 3, 100):
        paths = paths_of(likely_trials(goes, most=most, pass_cost=pass_cost))
        assert len(set(paths)) == len(paths) <= most
        ranked = sorted(likely.values(), reverse=True)[:most]
        rates = [sum(ranked[:n]) / (pass_cost + n) for n in range(1, len(ranked) + 1)]
        rate = sum(likely[path] for path in paths) / (pass_cost + len(paths))
        assert rate == pytest.approx(max(rates))


def test_what_trials_tell() -> None:
    trials = [
        Trial(0, None, False),
        Trial(1, 0, True),
        Trial(1, 0, False),
        Trial(2, 1, True),
        Trial(2, 2, True),
    ]
    changes = changes_in(trials, [1.5, 4.0, 2.0, 4.5, 7.0], 1.0)
    assert changes == [0.5, 2.5, 1.0, 0.5, 5.0]
    # The first edge stays, the second goes, and of the third something is known after that.
    assert list(true_path(trials, [False, True, True, True, True])) == [0, 2, 4]
    assert list(true_path(trials, [True, False, True, True, True])) == [0, 1]
    assert best_informed(trials, [False, True, True]) == {0: 0, 1: 2, 2: 4}
    assert best_informed(trials, [True, False]) == {0: 0, 1: 1, 2: 3}


def test_guesses_follow_what_happened() -> None:
    graph = ComponentGraph.from_model(tiny.dense("LN", n_heads=2))
    guesses = Guesses(Rule(1.0, False), graph)
    logits, mlp, query = graph.logits_reader.start, graph.mlp(1).readers.start, 0
    edge, same_kind = (query, 0), (graph.heads(1).readers.start, 3)
    assert guesses.goes(edge, None) > 0.5
    measured = [guesses.goes(edge, change) for change in (-100.0, 0.9, 1.1, 100.0)]
    assert measured == sorted(measured, reverse=True)
    assert measured[1] > 0.5 > measured[2]
    before = guesses.goes((mlp, 3), None)
    for _ in range(20):
        guesses.learn(edge, None, False)
        guesses.learn((mlp, 3), 1.1, True)
    assert guesses.goes(edge, None) < 0.2
    assert guesses.goes(same_kind, None) < before  # its reader is a query, too
    assert guesses.goes((logits, 0), None) < before  # and this edge's writer is the same
    assert guesses.goes((mlp, 3), None) > before
    assert guesses.goes((logits, 4), 1.1) > 0.5  # as such measurements turned out
