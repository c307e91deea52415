"""How long a running comparison will still take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from statistics import fmean


def seconds_left(
    taken: Mapping[str, Sequence[float]], remaining: Mapping[str, int], elapsed: float
) -> float | None:
    """Seconds until the last job ends; None before any has ended, when nothing is known.

    A job is expected to take the mean of its method, or of all jobs where none of its method has
    ended; and as many to run at a time as did so far.

    Args:
        taken: seconds of the jobs that ended, by method.
        remaining: number of jobs that have not ended, by method.
        elapsed: seconds since the first of them began.
    """
    all_seconds = [seconds for of_method in taken.values() for seconds in of_method]
    total = sum(all_seconds)
    if not all_seconds:
        return None
    work = sum(n * fmean(taken.get(method) or all_seconds) for method, n in remaining.items())
    return work / total * elapsed if total else 0.0


def in_words(seconds: float | None) -> str:
    """As hours, minutes and seconds; empty where not known."""
    return "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"
