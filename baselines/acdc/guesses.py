"""How likely an edge is to go, judged by how often such guesses were right so far."""

import math

import numpy as np

from sparse_lens.baselines.acdc.run import Rule

_FORGETTING = 0.97
_FIRST_COUNTS = 2.0
_BY_DEFAULT = 0.8
_BY_DISTANCE = (0.6, 0.75, 0.85, 0.9, 0.95)


class Guesses:
    """Counts of what happened to edges, of which older ones matter less and less.

    An edge whose removal was measured on top of other removals than the ones that were decided on
    mostly does what it did there, the more so the farther that was from the threshold.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        right = np.array([_BY_DEFAULT, *2 * _BY_DISTANCE]) * _FIRST_COUNTS
        self._right, self._wrong = right, _FIRST_COUNTS - right

    def goes(self, measured: float | None) -> float:
        """Probability that an edge goes, given the change that was measured, if any was."""
        kind = self._kind(measured)
        right = self._right[kind] / (self._right[kind] + self._wrong[kind])
        return float(right if self._guess(measured) else 1 - right)

    def learn(self, measured: float | None, goes: bool) -> None:
        """What became of an edge after all."""
        kind = self._kind(measured)
        self._right[kind] *= _FORGETTING
        self._wrong[kind] *= _FORGETTING
        counts = self._right if self._guess(measured) == goes else self._wrong
        counts[kind] += 1

    def _guess(self, measured: float | None) -> bool:
        return measured is None or self._rule.removes(measured)

    def _kind(self, measured: float | None) -> int:
        """0 for an edge never measured, else by what it did and its distance from the threshold."""
        if measured is None:
            return 0
        n = len(_BY_DISTANCE)
        distance = self._rule.margin(measured) / self._rule.threshold
        step = 0 if distance < 1 else min(n - 1, 1 + int(math.log(min(distance, 1e9), 4)))
        return 1 + step + n * self._guess(measured)
