"""Bootstrap intervals of means, and the spread of ratios over seeds and tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RESAMPLES = 10_000
FEWEST_FOR_INTERVAL = 5
"""Rows. With three, all draws are the same extreme row in 1 of 27 resamples (3.7%, more than the
2.5% that an end leaves out), so that a percentile interval is always the range."""

_AT_ONCE = 1_000


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95% percentile bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Geometric mean of ratios over rows (tasks) and columns (seeds), and how it varies."""

    mean: float

    minimum: float
    """Over columns."""

    maximum: float
    sd_log: float | None
    """Standard deviation of the logarithm over columns (n - 1); None for a single column."""

    interval: tuple[float, float] | None
    """Ends of the 95% percentile bootstrap interval over rows; None for fewer rows than
    `FEWEST_FOR_INTERVAL`, whose range is in `by_row`."""

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


def resampled_means(
    rows: Float[Tensor, "n ..."], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[Tensor, "resamples ..."]:
    """Means of rows drawn with replacement, as many as there are, in double precision.

    Args:
        seed: of the resampling.
    """
    rows = rows.detach().cpu().double()
    generator = torch.Generator().manual_seed(seed)
    means = []
    for chunk in torch.arange(resamples).split(_AT_ONCE):
        drawn = torch.randint(len(rows), (len(chunk), len(rows)), generator=generator)
        counts = torch.zeros(drawn.shape, dtype=rows.dtype)
        counts.scatter_add_(1, drawn, torch.ones_like(counts))
        means.append(torch.tensordot(counts, rows, dims=1) / len(rows))
    return torch.cat(means)


def ends_of_interval(statistics: Float[Tensor, " resamples"]) -> tuple[float, float]:
    """The 95% percentile interval of a statistic of resamples."""
    ends = statistics.quantile(torch.tensor([0.025, 0.975], dtype=statistics.dtype))
    low, high = ends.tolist()
    return low, high


def crossed_interval(
    first: Float[Tensor, "rows columns"],
    second: Float[Tensor, "rows others"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95% interval of the difference of two tables' means, all factors drawn with replacement.

    Rows (tasks) are the same in both tables; columns (trained models) are theirs. Each is drawn
    once a resample for the whole table, not anew in each row, since it is the same models that do
    all tasks: the pigeonhole bootstrap of Owen 2007 (Annals of Applied Statistics 1). It draws n
    of n, so that of two or three columns it understates how much these vary, as any bootstrap does.

    Args:
        seed: of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)

    def weights(n: int) -> Float[Tensor, "resamples n"]:
        drawn = torch.randint(n, (resamples, n), generator=generator)
        ones = torch.ones(drawn.shape, dtype=torch.float64)
        return torch.zeros_like(ones).scatter_add_(1, drawn, ones) / n

    rows = weights(len(first))
    means = [
        torch.einsum("rt, tm, rm -> r", rows, table.double(), weights(table.shape[1]))
        for table in (first, second)
    ]
    return ends_of_interval(means[0] - means[1])


def spread_of(
    logs: Sequence[Sequence[float]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Spread:
    """The spread of a table of logarithms of ratios, rows drawn with replacement.

    Args:
        seed: of the resampling.
    """
    table = torch.tensor(logs, dtype=torch.float64)
    rows, columns = table.mean(1), table.mean(0)
    interval = None
    if len(rows) >= FEWEST_FOR_INTERVAL:
        low, high = ends_of_interval(resampled_means(rows, resamples=resamples, seed=seed))
        interval = math.exp(low), math.exp(high)
    return Spread(
        mean=float(table.mean().exp()),
        minimum=float(columns.min().exp()),
        maximum=float(columns.max().exp()),
        sd_log=float(columns.std()) if len(columns) > 1 else None,
        interval=interval,
        by_row=tuple(rows.exp().tolist()),
        by_column=tuple(columns.exp().tolist()),
    )
