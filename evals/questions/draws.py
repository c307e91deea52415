"""A circuit that was measured several times, with something drawn anew each time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.answers import Answer
from sparse_lens.evals.metrics import CircuitMetrics, MetricName

LOWER_IS_BETTER: tuple[MetricName, ...] = ("kl", "task_loss")


@dataclass(frozen=True, eq=False)
class Draws:
    """Metrics on the same prompts, one set a draw."""

    circuits: tuple[Circuit, ...]
    """What ran in each draw."""

    metrics: tuple[CircuitMetrics, ...]

    def __len__(self) -> int:
        return len(self.metrics)

    def values(self, metric: MetricName) -> Float[Tensor, "draws n"]:
        """One metric of every draw and example."""
        return torch.stack([getattr(metrics, metric) for metrics in self.metrics])

    def mean(self, metric: MetricName, *, seed: int = 0) -> Answer:
        """The mean over draws; the interval is over examples.

        Args:
            seed: of the bootstrap.
        """
        return Answer.of(self.values(metric).mean(0), seed=seed)

    def worst(self, metric: MetricName, *, seed: int = 0) -> Answer:
        """The draw with the worst mean over examples; the interval is that of this draw."""
        means = self.values(metric).double().mean(1)
        worst = means.argmax() if metric in LOWER_IS_BETTER else means.argmin()
        return self.metrics[int(worst)].answer(metric, seed=seed)


def random_subsets(
    n: int, *, share: float, draws: int, seed: int
) -> tuple[Bool[Tensor, " n"], ...]:
    """Some subsets of n things.

    Args:
        share: probability with which each thing is in a subset.

    Raises:
        ValueError: for no draws, or a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}.")
    generator = generator_of(seed, draws)
    return tuple(torch.rand(n, generator=generator) < share for _ in range(draws))


def generator_of(seed: int, draws: int) -> torch.Generator:
    """A generator for some draws.

    Raises:
        ValueError: for no draws.
    """
    if draws < 1:
        raise ValueError(f"draws must be 1 or more, got {draws}.")
    return torch.Generator().manual_seed(seed)
