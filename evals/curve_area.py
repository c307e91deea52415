"""One number for a curve over circuit sizes: CPR and CMD of the MIB benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the edges at which MIB measures circuits (Mueller et al. 2025, 2504.13151)."""


def recovered_fractions(values: Sequence[float], *, full: float, empty: float) -> list[float]:
    """f = (m(circuit) - m(empty)) / (m(full) - m(empty)) for some circuits.

    1 for a circuit as good as the full model, 0 for one as bad as the empty circuit; either may be
    passed.

    Args:
        values: a metric such as the logit difference, of each circuit.

    Raises:
        ValueError: when the full model and the empty circuit do not differ.
    """
    if full == empty:
        raise ValueError(
            f"the full model and the empty circuit both score {full}: there is nothing to recover."
        )
    return [(value - empty) / (full - empty) for value in values]


def cpr(shares: Sequence[float], recovered: Sequence[float]) -> float:
    """Integrated circuit performance ratio: the area under the recovered fraction.

    Higher is better: it rewards circuits that do more than the model does.

    Args:
        shares: of the graph's edges, ascending, such as `MIB_SHARES`.
        recovered: from `recovered_fractions`, at each share.

    Raises:
        ValueError: for fewer than two shares, shares that do not ascend, or other lengths.
    """
    return _area(shares, list(recovered))


def cmd(shares: Sequence[float], recovered: Sequence[float]) -> float:
    """Integrated circuit-model distance: the area between the recovered fraction and 1.

    Lower is better, 0 for circuits that do exactly as well as the model. The arguments are those
    of :func:`cpr`.
    """
    return _area(shares, [abs(1 - fraction) for fraction in recovered])


def _area(shares: Sequence[float], heights: Sequence[float]) -> float:
    """By the trapezoid rule."""
    if len(shares) != len(heights) or len(shares) < 2:
        raise ValueError(
            f"a curve takes two points or more, with a height for each share; got {len(shares)} "
            f"shares and {len(heights)} heights."
        )
    steps = [right - left for left, right in pairwise(shares)]
    if min(steps) <= 0:
        raise ValueError(f"shares must ascend, got {list(shares)}.")
    middles = [(left + right) / 2 for left, right in pairwise(heights)]
    return sum(step * middle for step, middle in zip(steps, middles, strict=True))
