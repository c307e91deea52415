"""Areas under curves over circuit sizes, against sums worked out by hand."""

import random

import pytest

from sparse_lens.evals.curve_area import MIB_SHARES, cmd, cpr, recovered_fractions


def test_recovered_fractions() -> None:
    assert recovered_fractions([3.0, 5.0, 1.0, 6.0], full=5.0, empty=1.0) == [0.5, 1.0, 0.0, 1.25]
    # A loss falls where a logit difference rises.
    assert recovered_fractions([0.25], full=0.0, empty=1.0) == [0.75]
    with pytest.raises(ValueError, match=r"both score 2\.0: there is nothing to recover"):
        recovered_fractions([1.0], full=2.0, empty=2.0)


def test_areas_of_a_line() -> None:
    assert cpr([0.0, 0.5, 1.0], [0.0, 0.5, 1.0]) == pytest.approx(0.5)
    assert cmd([0.0, 0.5, 1.0], [0.0, 0.5, 1.0]) == pytest.approx(0.5)
    # Doing more than the model counts for one and against the other.
    assert cpr([0.0, 1.0], [2.0, 2.0]) == 2.0
    assert cmd([0.0, 1.0], [2.0, 2.0]) == 1.0


def slow_area(shares: tuple[float, ...], heights: list[float]) -> float:
    total = 0.0
    for i in range(len(shares) - 1):
        width = shares[i + 1] - shares[i]
        total += width * min(heights[i], heights[i + 1])
        total += width * abs(heights[i + 1] - heights[i]) / 2
    return total


def test_areas_on_the_grid_of_mib() -> None:
    rng = random.Random(0)
    recovered = [rng.uniform(-0.5, 1.5) for _ in MIB_SHARES]
    assert cpr(MIB_SHARES, recovered) == pytest.approx(slow_area(MIB_SHARES, recovered))
    distances = [abs(1 - fraction) for fraction in recovered]
    assert cmd(MIB_SHARES, recovered) == pytest.approx(slow_area(MIB_SHARES, distances))


@pytest.mark.parametrize(
    ("shares", "message"),
    [([0.1], "got 1 shares and 1 heights"), ([0.1, 0.1], "must ascend"), ([0.5, 0.1], "ascend")],
)
def test_no_curve(shares: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cpr(shares, [0.0] * len(shares))
    with pytest.raises(ValueError, match="got 2 shares and 3 heights"):
        cmd([0.1, 0.2], [0.0, 0.0, 0.0])
