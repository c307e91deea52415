"""Means of ratios with their spread over seeds and a bootstrap interval over tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

RESAMPLES = 10_000


@dataclass(frozen=True)
class Spread:
    """Geometric mean of ratios over rows (tasks) and columns (seeds), and how it varies."""

    mean: float

    minimum: float
    """Over columns."""

    maximum: float
    sd_log: float | None
    """Standard deviation of the logarithm over columns (n - 1); None for a single column."""

    low: float
    """End of the 95% percentile bootstrap interval over rows; the mean itself for a single row."""

    high: float
    by_row: tuple[float, ...]
    """Geometric means over the columns."""

    by_column: tuple[float, ...]
    """Geometric means over the rows."""


def geometric_mean(values: Sequence[float | int]) -> float:
    """Exponential of the mean logarithm.

    Raises:
        ValueError: for no values, or one that is not positive.
    """
    if not values or min(values) <= 0:
        raise ValueError(f"a geometric mean is of positive numbers, got {list(values)}.")
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


def spread_of(
    logs: Sequence[Sequence[float]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Spread:
    """The spread of a table of logarithms of ratios, rows drawn with replacement.

    Args:
        seed: of the resampling.
    """
    table = torch.tensor(logs, dtype=torch.float64)
    rows, columns = table.mean(1), table.mean(0)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(rows), (resamples, len(rows)), generator=generator)
    ends = rows[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    low, high = ends.exp().tolist()
    return Spread(
        mean=float(table.mean().exp()),
        minimum=float(columns.min().exp()),
        maximum=float(columns.max().exp()),
        sd_log=float(columns.std()) if len(columns) > 1 else None,
        low=low,
        high=high,
        by_row=tuple(rows.exp().tolist()),
        by_column=tuple(columns.exp().tolist()),
    )
