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

    def means(self) -> dict[str, list[float]]:
        """Each metric's mean over the examples, one of every draw, by name."""
        means = [metrics.means() for metrics in self.metrics]
        return {name: [of_draw[name] for of_draw in means] for name in means[0]} if means else {}

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
    check_share(share)
    generator = generator_of(seed, draws)
    return tuple(torch.rand(n, generator=generator) < share for _ in range(draws))


def generator_of(seed: int, draws: int) -> torch.Generator:
    """A generator for some draws.

    Raises:
        ValueError: for no draws.
    """
    check_count("draws", draws)
    return torch.Generator().manual_seed(seed)


def check_count(name: str, count: int) -> None:
    """Refuse a number of draws, nodes or runs that is no whole number, or below one.

    Raises:
        ValueError: naming the argument.
    """
    if not isinstance(count, int):
        raise ValueError(f"{name} must be a whole number, got {count!r}.")
    if count < 1:
        raise ValueError(f"{name} must be 1 or more, got {count}.")


def check_share(share: float) -> None:
    """Refuse a probability of being drawn that draws nothing.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}.")
