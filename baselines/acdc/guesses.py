"""How likely an edge is to go, judged by what became of the edges before it."""

import math

from sparse_lens.baselines.acdc.pruning_run import Rule
from sparse_lens.graphs.component import LETTERS, ComponentGraph

_LEARNING_RATE = 0.5
_UNMEASURED = 0.8
_BY_DISTANCE = (0.6, 0.75, 0.85, 0.9, 0.95)


class Guesses:
    """A logistic regression that learns from each decision.

    It hears of an edge's writer, of what its reader is (q, k, v, MLP, logits), and, where its
    removal was measured on top of other removals than the ones that were decided on, of what it
    did there: it mostly does the same again, the more so the farther that was from the threshold.
    """

    def __init__(self, rule: Rule, graph: ComponentGraph) -> None:
        self._rule = rule
        self._kinds = _kinds(graph)
        self._of_writers = [0.0] * graph.n_writers
        self._of_kinds = [0.0] * (max(self._kinds) + 1)
        log_odds = [math.log(share / (1 - share)) for share in (_UNMEASURED, *_BY_DISTANCE)]
        self._of_measured = [*log_odds, *(-one for one in log_odds[1:])]

    def goes(self, edge: tuple[int, int], measured: float | None) -> float:
        """Probability of an edge (row and writer) to go.

        Args:
            measured: the change of the loss by its removal, if that was measured.
        """
        row, writer = edge
        log_odds = self._of_writers[writer] + self._of_kinds[self._kinds[row]]
        return 1 / (1 + math.exp(-log_odds - self._of_measured[self._place(measured)]))

    def learn(self, edge: tuple[int, int], measured: float | None, goes: bool) -> None:
        """What became of an edge after all."""
        row, writer = edge
        step = _LEARNING_RATE * (goes - self.goes(edge, measured))
        self._of_writers[writer] += step
        self._of_kinds[self._kinds[row]] += step
        self._of_measured[self._place(measured)] += step

    def _place(self, measured: float | None) -> int:
        """0 for an edge never measured, else by what it did and its distance from the threshold."""
        if measured is None:
            return 0
        n = len(_BY_DISTANCE)
        distance = self._rule.margin(measured) / self._rule.threshold
        step = 0 if distance < 1 else min(n - 1, 1 + int(math.log(min(distance, 1e9), 4)))
        return 1 + step + n * (not self._rule.removes(measured))


def _kinds(graph: ComponentGraph) -> list[int]:
    """What readers are, by row: q, k, v, an MLP, or the logits."""
    kinds = [len(LETTERS) + 1] * graph.n_readers
    for sublayer in graph.sublayers:
        rows = range(graph.n_readers)[sublayer.readers]
        for i, row in enumerate(rows):
            kinds[row] = i // graph.n_heads if sublayer.kind == "heads" else len(LETTERS)
    return kinds
