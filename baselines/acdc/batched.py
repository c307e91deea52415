"""ACDC on a component graph: many removals in one pass, to the circuit of one at a time."""

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.baselines.acdc.guesses import Guesses
from sparse_lens.baselines.acdc.order import Rows, sublayers_from_the_output
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
from sparse_lens.patching import BoundAblation, CircuitVariants, full_logits
from sparse_lens.task import Prompts

_MOST_TRIALS = 256
# What a sublayer costs in a pass beside its trials, in multiplications: its calls take so long.
_CALL_COST = {"cpu": 2**23}
_CALL_COST_ELSEWHERE = 2**32
_LOGIT_ELEMENTS = 2**26
_MOST_REPEATED = 16


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
        width = prompts.clean.shape[1]
        kept = start.edge_mask(EDGES).numpy()
        self._parts = [
            _Part(part_bound, part, objective, kept)
            for part, part_bound in bound.batches(prompts, max(1, max_tokens // width))
        ]
        self._n, self._width = len(prompts), width
        self._loss = sum(part.loss() for part in self._parts) / self._n
        self._changes: dict[Edge, float] = {}
        self._margin, self._n_passes = float("inf"), 0
        self._guesses = Guesses(rule, graph)

    @property
    def _circuit(self) -> CircuitVariants:
        return self._parts[0].variants

    def readers_of(self, sublayer: Rows) -> int:
        """The same for v, k and q of a layer, none of which hears of the others."""
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
                for part in self._parts:
                    part.variants.drop(row)
        edges = [
            (row, writer)
            for row in rows
            for writer in self._circuit.kept[row].nonzero()[0][::-1].tolist()
        ]
        measured: list[float | None] = [None] * len(edges)
        limits = {row: self._limit(row) for row in dict.fromkeys(row for row, _ in edges)}
        pass_cost = self._pass_cost(edges[0][0]) if edges else 0.0
        while edges:
            settled = self._try(edges, measured, rule, limits, pass_cost)
            edges, measured = edges[settled:], measured[settled:]

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
        """Try the removals that are likely to be needed, and decide on as many edges as they tell.

        Args:
            measured: how the removal of each edge changed the loss on top of other decisions; is
                brought up to date for those that stay undecided.
            limits: how many trials fit into a pass, by row.
            pass_cost: beside that of its trials, in trials.

        Returns:
            How many edges were decided on.
        """
        near = edges[:_MOST_TRIALS]
        goes = [self._guesses.goes(*one) for one in zip(near, measured, strict=False)]
        most = min(limits[row] for row, _ in near)
        trials = likely_trials(goes, most=most, pass_cost=pass_cost)
        rows = sorted({near[trial.edge][0] for trial in trials})
        kept = self._variants(trials, near, rows)
        found = torch.stack([part.losses(rows, kept) for part in self._parts]).sum(0) / self._n
        self._n_passes += len(self._parts)
        losses = found.tolist()
        changes = changes_in(trials, losses, self._loss)
        decided, last_removed = [], None
        for place in true_path(trials, [rule.removes(change) for change in changes]):
            change = changes[place]
            self._changes[(EDGES, *near[len(decided)])] = change
            self._margin = min(self._margin, rule.margin(change))
            outcome = rule.removes(change)
            self._guesses.learn(near[len(decided)], measured[len(decided)], outcome)
            decided.append(outcome)
            if outcome:
                self._loss, last_removed = losses[place], place
        for i, place in best_informed(trials, decided).items():
            measured[i] = changes[place]
        if last_removed is not None:
            for part in self._parts:
                part.variants.adopt(last_removed)
        return len(decided)

    def _variants(
        self, trials: list[Trial], edges: list[tuple[int, int]], rows: list[int]
    ) -> np.ndarray:
        """What the readers keep in each trial, bool [trials, rows, writers]."""
        left, variants = [], []
        for trial in trials:
            parent = trial.parent
            if parent is None:
                left.append(self._circuit.kept[rows])
            else:
                left.append(variants[parent] if trial.parent_goes else left[parent])
            row, writer = edges[trial.edge]
            variants.append(left[-1].copy())
            variants[-1][rows.index(row), writer] = False
        return np.stack(variants)

    def _pass_cost(self, row: int) -> float:
        """Of a pass for this reader, beside that of its trials, in trials."""
        calls, work = self._circuit.work([row])
        return calls * _CALL_COST.get(self._parts[0].device, _CALL_COST_ELSEWHERE) / work

    def _limit(self, row: int) -> int:
        """How many removals of a reader's edges fit into one pass."""
        everywhere = self._circuit.acting.readers_everywhere[row]
        part = self._parts[0]
        tokens = part.n_prompts * (self._width if everywhere else 1)
        by_logits = _LOGIT_ELEMENTS // (part.n_prompts * part.variants.logits.shape[1])
        return max(1, min(self._max_tokens // tokens, by_logits))


class _Part:
    """Some of the prompts."""

    def __init__(
        self, bound: BoundAblation, prompts: Prompts, objective: Objective, kept: np.ndarray
    ) -> None:
        self._prompts = prompts.to(bound.device)
        self.n_prompts = len(prompts)
        self.device = self._prompts.clean.device.type
        self._objective = objective
        self.variants = CircuitVariants(bound, self._prompts, kept)
        self._repeated: dict[int, Prompts] = {}  # for so many variants
        self._full = None
        if objective.needs_full_logits:
            is_full = kept.sum() == bound.graph.n_edges
            full = self.variants.logits if is_full else full_logits(bound.model, self._prompts)
            self._full = full

    def loss(self) -> float:
        """Summed over the prompts, of the circuit as it stands."""
        return float(self._losses(self.variants.logits[None])[0])

    def losses(self, rows: list[int], kept: np.ndarray) -> Float[Tensor, " variants"]:
        """The same of variants."""
        return self._losses(self.variants.run(rows, kept))

    @torch.no_grad()
    def _losses(self, logits: Float[Tensor, "variants n vocab"]) -> Float[Tensor, " variants"]:
        variants, n = logits.shape[:2]
        if variants not in self._repeated:
            if len(self._repeated) == _MOST_REPEATED:
                del self._repeated[next(iter(self._repeated))]
            again = torch.arange(n, device=logits.device).repeat(variants)
            self._repeated[variants] = self._prompts[again]
        full = None if self._full is None else self._full.repeat(variants, 1)
        losses = self._objective(logits.flatten(0, 1), self._repeated[variants], full)
        return losses.view(variants, n).cpu().sum(1, dtype=torch.float64)
