"""The hard concrete distribution: random gates that can be exactly 0 or 1, with gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class HardConcrete:
    """The hard concrete distribution of gates z in [0, 1] (Louizos et al. 2018, 1712.01312).

    With u uniform on (0, 1):

        s = sigmoid((logit(u) + log_alpha) / temperature)
        z = clip(low + (high - low) s, 0, 1)

    log_alpha is divided by the temperature, as in the program of Edge Pruning (Bhaskar et al. 2024,
    2406.16778), whose constants are the defaults.
    """

    temperature: float = 2 / 3
    """Of the sigmoid; the smaller, the more of the gates are exactly 0 or 1."""

    low: float = -0.1
    high: float = 1.1
    """Ends of the interval that s is stretched to before it is clipped to [0, 1]."""

    eps: float = 1e-6
    """u is drawn from (eps, 1 - eps)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        if not self.low < 0 < 1 < self.high:
            raise ValueError(
                f"the interval must reach beyond [0, 1] on both sides, got ({self.low}, "
                f"{self.high}): gates would never be exactly 0 or 1."
            )
        if not 0 < self.eps < 0.5:
            raise ValueError(f"eps must lie between 0 and 0.5, got {self.eps}.")

    def sample(
        self, log_alpha: Float[Tensor, " gates"], generator: torch.Generator
    ) -> Float[Tensor, " gates"]:
        """One draw of every gate, with a gradient to log_alpha for gates strictly inside (0, 1).

        Args:
            generator: u is drawn on its device. One on the CPU gives the same gates for log_alpha
                on any device.
        """
        u = torch.rand(log_alpha.shape, generator=generator, device=generator.device)
        u = u.to(log_alpha).mul_(1 - 2 * self.eps).add_(self.eps)
        return self._stretched(u.logit() + log_alpha)

    def median(self, log_alpha: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        """The deterministic gate, at u = 1/2."""
        return self._stretched(log_alpha)  # logit(1/2) = 0

    def probability_open(self, log_alpha: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        """P(z > 0) = 1 - P(z = 0), where P(z = 0) = sigmoid(-offset - log_alpha)."""
        return (log_alpha + self.offset).sigmoid()

    @property
    def offset(self) -> float:
        """logit(P(z > 0)) - log_alpha.

        z > 0 if s > -low / (high - low), whose logit is log(-low / high), so if
        logit(u) + log_alpha > temperature * log(-low / high) = -offset.
        """
        return -self.temperature * math.log(-self.low / self.high)

    def _stretched(self, logit: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        """z, given logit(u) + log_alpha."""
        stretched = self.low + (self.high - self.low) * (logit / self.temperature).sigmoid()
        return stretched.clamp(0, 1)
