"""ACDC on a component graph: many removals in one pass, to the circuit of one at a time."""

import itertools
from collections.abc import Mapping

import numpy as np
import torch

from sparse_lens.baselines.acdc.guesses import Guesses
from sparse_lens.baselines.acdc.order import Rows, sublayers_from_the_output
from sparse_lens.baselines.acdc.prompt_batch import PromptBatch
from sparse_lens.baselines.acdc.pruning_run import Edge, Rule, Run
from sparse_lens.baselines.acdc.trials import (
    Trial,
    best_informed,
    changes_in,
    likely_trials,
    true_path,
)
from sparse_lens.circuit import Circuit
from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.patching import BoundAblation, CircuitVariants
from sparse_lens.task import Prompts

_MOST_TRIALS = 256
# What a sublayer costs in a pass beside its trials, in multiplications: its calls take so long.
_CALL_COST = {"cpu": 2**23}
_CALL_COST_ELSEWHERE = 2**32
_LOGIT_ELEMENTS = 2**26


def run_in_batches(
    bound: BoundAblation,
    prompts: Prompts,
    objective: Objective,
    start: Circuit,
    rule: Rule,
    *,
    max_tokens: int,
) -> Run:
    """The circuit of one-at-a-time ACDC, found in fewer passes.

    The next few removals are tried in one batch, each on top of the decisions before it that are
    the likeliest, and where these are uncertain also on top of others. All trials count whose
    assumptions turn out right; the edges after them are tried again.

    Args:
        max_tokens: prompts times positions times removals in one pass.
    """
    search = _Search(bound, prompts, objective, start, rule, max_tokens)
    for _, group in itertools.groupby(sublayers_from_the_output(bound.graph), search.readers_of):
        search.prune([row for _, rows in group for row in rows], rule)
    return search.result(rule)


class _Search:
    def __init__(
        self,
        bound: BoundAblation,
        prompts: Prompts,
        objective: Objective,
        start: Circuit,
        rule: Rule,
        max_tokens: int,
    ) -> None:
        graph = bound.graph
        assert isinstance(graph, ComponentGraph)
        self._graph, self._max_tokens = graph, max_tokens
        self._n, self._width = prompts.clean.shape
        kept = start.edge_mask(EDGES).numpy()
        self._batches = [
            PromptBatch(bound_to_batch, batch, objective, kept)
            for batch, bound_to_batch in bound.batches(prompts, max(1, max_tokens // self._width))
        ]
        self._loss = sum(batch.initial_loss() for batch in self._batches) / self._n
        self._changes: dict[Edge, float] = {}
        self._margin, self._n_passes = float("inf"), 0
        self._guesses = Guesses(rule, graph)

    @property
    def _circuit(self) -> CircuitVariants:
        return self._batches[0].variants  # the edges are the same in all of them

    def readers_of(self, sublayer: Rows) -> int:
        """The same number for v, k and q of a layer, none of which reads from the others."""
        block, rows = sublayer
        assert block == EDGES
        starts = [sublayer.readers.start for sublayer in self._graph.sublayers]
        starts.append(self._graph.logits_reader.start)
        return max(start for start in starts if start <= rows.start)

    def prune(self, rows: list[int], rule: Rule) -> None:
        """Try all edges into readers of one sublayer, one reader after the other."""
        acting = self._circuit.acting.readers
        for row in rows:
            if not acting[row]:
                for batch in self._batches:
                    batch.variants.drop(row)
        edges = [
            (row, writer)
            for row in rows
            for writer in self._circuit.kept[row].nonzero()[0][::-1].tolist()
        ]
        measured: list[float | None] = [None] * len(edges)
        limits = {row: self._limit(row) for row in dict.fromkeys(row for row, _ in edges)}
        pass_cost = self._pass_cost(edges[0][0]) if edges else 0.0
        while edges:
            n_decided = self._try(edges, measured, rule, limits, pass_cost)
            edges, measured = edges[n_decided:], measured[n_decided:]

    def result(self, rule: Rule) -> Run:
        """What it came to."""
        kept = torch.from_numpy(self._circuit.kept.copy())
        return Run(
            rule=rule,
            circuit=Circuit.from_edge_masks(self._graph, {EDGES: kept}),
            loss=self._loss,
            changes=self._changes,
            margin=self._margin,
            n_passes=self._n_passes,
        )

    def _try(
        self,
        edges: list[tuple[int, int]],
        measured: list[float | None],
        rule: Rule,
        limits: Mapping[int, int],
        pass_cost: float,
    ) -> int:
        """Try the removals that are likely to be needed; decide on as many edges as these allow.

        Args:
            measured: how the removal of each edge changed the loss on top of other decisions; is
                brought up to date for those that stay undecided.
            limits: how many trials fit into a pass, by row.
            pass_cost: beside that of its trials, in trials.

        Returns:
            How many edges were decided on.
        """
        edges = edges[:_MOST_TRIALS]
        goes = [self._guesses.goes(*known) for known in zip(edges, measured, strict=False)]
        most = min(limits[row] for row, _ in edges)
        trials = likely_trials(goes, most=most, pass_cost=pass_cost)
        rows = sorted({edges[trial.edge][0] for trial in trials})
        kept = self._variants(trials, edges, rows)
        sums = torch.stack([batch.losses(rows, kept) for batch in self._batches]).sum(0)
        self._n_passes += len(self._batches)
        losses = (sums / self._n).tolist()
        changes = changes_in(trials, losses, self._loss)
        decided, last_removed = [], None
        for trial in true_path(trials, [rule.removes(change) for change in changes]):
            i, change = len(decided), changes[trial]
            self._changes[(EDGES, *edges[i])] = change
            self._margin = min(self._margin, rule.margin(change))
            decided.append(rule.removes(change))
            self._guesses.learn(edges[i], measured[i], decided[-1])
            if decided[-1]:
                self._loss, last_removed = losses[trial], trial
        for i, trial in best_informed(trials, decided).items():
            measured[i] = changes[trial]
        if last_removed is not None:
            for batch in self._batches:
                batch.variants.adopt(last_removed)
        return len(decided)

    def _variants(
        self, trials: list[Trial], edges: list[tuple[int, int]], rows: list[int]
    ) -> np.ndarray:
        """What the readers keep in each trial, bool [trials, rows, writers]."""
        before, variants = [], []  # by trial, without and with the removal of its edge
        for trial in trials:
            if trial.parent is None:
                before.append(self._circuit.kept[rows])
            else:
                before.append((variants if trial.parent_goes else before)[trial.parent])
            row, writer = edges[trial.edge]
            variants.append(before[-1].copy())
            variants[-1][rows.index(row), writer] = False
        return np.stack(variants)

    def _pass_cost(self, row: int) -> float:
        """Of a pass for this reader, beside that of its trials, in trials."""
        calls, work = self._circuit.work([row])
        return calls * _CALL_COST.get(self._batches[0].device.type, _CALL_COST_ELSEWHERE) / work

    def _limit(self, row: int) -> int:
        """How many removals of a reader's edges fit into one pass."""
        everywhere = self._circuit.acting.readers_everywhere[row]
        n_prompts = self._batches[0].n_prompts  # the largest batch
        tokens = n_prompts * (self._width if everywhere else 1)
        by_logits = _LOGIT_ELEMENTS // (n_prompts * self._circuit.logits.shape[1])
        return max(1, min(self._max_tokens // tokens, by_logits))
