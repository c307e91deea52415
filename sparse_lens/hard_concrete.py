"""Gates that are exactly 0 or 1 with some probability, and differentiable in between."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class HardConcrete:
    """The hard concrete distribution of gates z in [0, 1] (Louizos et al. 2018, 1712.01312).

    With u uniform on (0, 1), s = sigmoid((logit(u) + log_alpha) / temperature) is stretched to the
    interval (low, high) and clipped to [0, 1]. Here log_alpha stands inside the division, as in
    the code of Edge Pruning (Bhaskar et al. 2024, 2406.16778), whose constants are the defaults.
    """

    temperature: float = 2 / 3
    """Of the sigmoid; the smaller, the closer to a coin toss."""

    low: float = -0.1
    high: float = 1.1
    """Ends of the stretched interval; what lies outside [0, 1] is clipped to its ends."""

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
        """One draw of every gate; gradients reach log_alpha where it is strictly inside (0, 1).

        Args:
            generator: on the device where the numbers are drawn. One on the CPU gives the same
                gates whatever the device of log_alpha.
        """
        u = torch.rand(log_alpha.shape, generator=generator, device=generator.device)
        u = u.to(log_alpha).mul_(1 - 2 * self.eps).add_(self.eps)
        return self._at(u.logit() + log_alpha)

    def median(self, log_alpha: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        """The deterministic gate, at u = 1/2."""
        return self._at(log_alpha)

    def probability_open(self, log_alpha: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        """P(z > 0) = 1 - P(z = 0), where P(z = 0) = sigmoid(-offset - log_alpha)."""
        return (log_alpha + self.offset).sigmoid()

    @property
    def offset(self) -> float:
        """The logit of P(z > 0) is log_alpha + offset."""
        return -self.temperature * math.log(-self.low / self.high)

    def _at(self, logit: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        stretched = self.low + (self.high - self.low) * (logit / self.temperature).sigmoid()
        return stretched.clamp(0, 1)
