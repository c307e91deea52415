"""The price of a kept node in node pruning: fixed, or following the loss."""

from __future__ import annotations

import math


class NodePrice:
    """`k_coef` over the steps of a run.

    Given a loss to hold, log k rises by up to 0.02 a step while a running mean of the objective is
    below it, and falls while it is above: the gates close as far as that loss allows, and a run
    cannot collapse. Otherwise k stays.

    Args:
        k_coef: the price at the start.
        hold: the objective to hold; None for a price that stays.
    """

    RATE = 0.02
    MEMORY = 0.9
    """Share of the running mean that a step keeps."""

    def __init__(self, k_coef: float, hold: float | None) -> None:
        self.k_coef = k_coef
        """The price now."""
        self._hold = hold
        self._mean: float | None = None

    def follow(self, objective: float) -> None:
        """Take note of the objective in one step."""
        if self._hold is None:
            return
        before = objective if self._mean is None else self._mean
        self._mean = self.MEMORY * before + (1 - self.MEMORY) * objective
        room = (self._hold - self._mean) / self._hold
        self.k_coef *= math.exp(self.RATE * min(1.0, max(-1.0, room)))
