"""The time that a comparison still takes, against cases worked out by hand."""

import pytest

from sparse_lens.commands.time_left import in_words, seconds_left


@pytest.mark.parametrize(
    ("taken", "remaining", "elapsed", "expected"),
    [
        ({}, {"a": 3}, 5.0, None),
        ({"a": [10.0]}, {"a": 3}, 10.0, 30.0),
        ({"a": [10.0], "b": [100.0]}, {"a": 2, "b": 1}, 110.0, 120.0),
        # Of c nothing is known: the mean of all, 40 seconds.
        ({"a": [10.0, 10.0], "b": [100.0]}, {"a": 0, "b": 0, "c": 2}, 120.0, 80.0),
        # Two at a time.
        ({"a": [10.0, 10.0, 10.0, 10.0]}, {"a": 6}, 20.0, 30.0),
        # Half of the time went by between the jobs.
        ({"a": [10.0]}, {"a": 3}, 20.0, 60.0),
        ({"a": [10.0]}, {"a": 0}, 10.0, 0.0),
        ({"a": [0.0]}, {"a": 2}, 1.0, 0.0),
    ],
)
def test_seconds_left(taken, remaining, elapsed, expected):
    assert seconds_left(taken, remaining, elapsed) == pytest.approx(expected)


def test_in_words():
    assert in_words(None) == ""
    assert in_words(3725.4) == "1:02:05 left"
