"""Predictions of which edges ACDC will remove, learned from its decisions so far."""

import math

from sparse_lens.baselines.acdc.pruning_run import Rule
from sparse_lens.graphs.component import LETTERS, ComponentGraph

_LEARNING_RATE = 0.5

# Initial probabilities: that an edge without a measurement is removed, and that a measurement
# predicts the decision, by its distance from the threshold (see `_measurement_bin`).
_UNMEASURED = 0.8
_BY_DISTANCE = (0.6, 0.75, 0.85, 0.9, 0.95)


class Guesses:
    """A logistic regression that is updated with each decision.

    Its features are the edge's writer, the kind of its reader (q, k, v, MLP, logits), and, where
    the removal was measured in a trial that assumed other decisions than those made, the change
    that was measured there. Such a measurement mostly predicts the decision, the more reliably the
    farther it lies from the threshold.
    """

    def __init__(self, rule: Rule, graph: ComponentGraph) -> None:
        self._rule = rule
        self._reader_kinds = _reader_kinds(graph)
        self._writer_weights = [0.0] * graph.n_writers
        self._kind_weights = [0.0] * (max(self._reader_kinds) + 1)
        log_odds = [math.log(p / (1 - p)) for p in (_UNMEASURED, *_BY_DISTANCE)]
        self._measurement_weights = [*log_odds, *(-value for value in log_odds[1:])]

    def goes(self, edge: tuple[int, int], measured: float | None) -> float:
        """Probability that an edge, given by its row and its writer, is removed.

        Args:
            measured: the change of the loss by its removal, if that was measured.
        """
        row, writer = edge
        log_odds = self._writer_weights[writer] + self._kind_weights[self._reader_kinds[row]]
        measurement = self._measurement_weights[self._measurement_bin(measured)]
        return 1 / (1 + math.exp(-log_odds - measurement))

    def learn(self, edge: tuple[int, int], measured: float | None, goes: bool) -> None:
        """Update the weights with the decision on an edge.

        Args:
            goes: whether the edge was removed.
        """
        row, writer = edge
        # The gradient of the log-likelihood with respect to the log-odds is y - p.
        step = _LEARNING_RATE * (goes - self.goes(edge, measured))
        self._writer_weights[writer] += step
        self._kind_weights[self._reader_kinds[row]] += step
        self._measurement_weights[self._measurement_bin(measured)] += step

    def _measurement_bin(self, measured: float | None) -> int:
        """0 without a measurement, else by its decision and its distance from the threshold.

        The bins of the distance are powers of 4, in units of the threshold.
        """
        if measured is None:
            return 0
        n_bins = len(_BY_DISTANCE)
        distance = self._rule.margin(measured) / self._rule.threshold
        step = 0 if distance < 1 else min(n_bins - 1, 1 + int(math.log(min(distance, 1e9), 4)))
        return 1 + step + n_bins * (not self._rule.removes(measured))


def _reader_kinds(graph: ComponentGraph) -> list[int]:
    """By row: 0, 1 and 2 for q, k and v of heads, 3 for an MLP, 4 for the logits."""
    kinds = [len(LETTERS) + 1] * graph.n_readers
    for sublayer in graph.sublayers:
        rows = range(graph.n_readers)[sublayer.readers]
        for index, row in enumerate(rows):
            kinds[row] = index // graph.n_heads if sublayer.kind == "heads" else len(LETTERS)
    return kinds
