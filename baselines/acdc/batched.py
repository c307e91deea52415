"""ACDC on a component graph: many removals in one pass, to the circuit of one at a time."""

import itertools

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.baselines.acdc.guesses import Guesses
from sparse_lens.baselines.acdc.order import Sublayer, sublayers_from_the_output
from sparse_lens.baselines.acdc.run import Edge, Rule, Run
from sparse_lens.baselines.acdc.trials import Trial, likely_trials
from sparse_lens.circuit import Circuit
from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.patching import BoundAblation, full_logits
from sparse_lens.patching.variants.circuit_variants import CircuitVariants
from sparse_lens.task import Prompts

_MOST_TRIALS = 256
# What a sublayer costs in a pass beside its trials, in multiplications: its calls take so long.
_CALL_COST = {"cpu": 2**24}
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

    Most edges go, so the next few removals are tried on top of each other in one batch. They hold
    up to the first that does not go; the ones after it are tried again without it.

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
        self._guesses = Guesses(rule)

    @property
    def _circuit(self) -> CircuitVariants:
        return self._parts[0].variants

    def readers_of(self, sublayer: Sublayer) -> int:
        """The same for v, k and q of a layer, none of which hears of the others."""
        graph, (block, rows) = self._graph, sublayer
        assert block == EDGES
        layers = (graph.head_readers(layer) for layer in range(graph.n_layers))
        return next((at.start for at in layers if at.start <= rows.start < at.stop), rows.start)

    def prune(self, rows: list[int], rule: Rule) -> None:
        """Try all edges into readers of one sublayer, one reader after the other."""
        needed = self._circuit.needs.readers
        for row in rows:
            if not needed[row]:
                for part in self._parts:
                    part.variants.drop(row)
        edges = [
            (row, writer)
            for row in rows
            for writer in self._circuit.kept[row].nonzero()[0][::-1].tolist()
        ]
        measured: list[float | None] = [None] * len(edges)
        while edges:
            settled = self._try(edges, measured, rule)
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

    def _try(self, edges: list[tuple[int, int]], measured: list[float | None], rule: Rule) -> int:
        """Try the removals that are likely to be needed, and decide on as many edges as they tell.

        Args:
            measured: how the removal of each edge changed the loss on top of other decisions; is
                brought up to date for those that stay undecided.

        Returns:
            How many edges were decided on.
        """
        near = edges[:_MOST_TRIALS]
        goes = [self._guesses.goes(change) for change in measured[: len(near)]]
        trials, rows = self._trials([row for row, _ in near], goes)
        kept = self._variants(trials, near, rows)
        losses = torch.stack([part.losses(rows, kept) for part in self._parts]).sum(0) / self._n
        self._n_passes += len(self._parts)
        # The loss before each trial's edge goes, if what it assumes is right.
        before, changes = [], []
        for trial, loss in zip(trials, losses.tolist(), strict=True):
            parent = trial.parent
            if parent is None:
                before.append(self._loss)
            else:
                before.append(float(losses[parent]) if trial.parent_goes else before[parent])
            changes.append(loss - before[-1])
        following = {(trial.parent, trial.parent_goes): i for i, trial in enumerate(trials)}
        place: int | None = 0
        decided, last_removed = [], None
        while place is not None:
            edge, change = near[trials[place].edge], changes[place]
            outcome = rule.removes(change)
            self._changes[(EDGES, *edge)] = change
            self._margin = min(self._margin, rule.margin(change))
            self._guesses.learn(measured[len(decided)], outcome)
            decided.append(outcome)
            if outcome:
                self._loss, last_removed = float(losses[place]), place
            place = following.get((place, outcome))
        self._measure_anew(measured, trials, changes, decided)
        if last_removed is not None:
            for part in self._parts:
                part.variants.adopt(last_removed)
        return len(decided)

    def _trials(self, rows: list[int], goes: list[float]) -> tuple[list[Trial], list[int]]:
        """What to try, and the readers that this concerns."""
        most, cost = self._most(rows), self._pass_cost(rows[:1])
        trials = likely_trials(goes, most=most, pass_cost=cost)
        return trials, sorted({rows[trial.edge] for trial in trials})

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

    @staticmethod
    def _measure_anew(
        measured: list[float | None],
        trials: list[Trial],
        changes: list[float],
        decided: list[bool],
    ) -> None:
        """Keep of each edge the change in the trial that assumed the fewest wrong decisions."""
        wrong: list[int] = []
        fewest: dict[int, int] = {}
        for trial, change in zip(trials, changes, strict=True):
            assumed = trial.parent is not None and trial.edge - 1 < len(decided)
            errors = 0 if trial.parent is None else wrong[trial.parent]
            wrong.append(errors + (assumed and decided[trial.edge - 1] != trial.parent_goes))
            if wrong[-1] < fewest.get(trial.edge, len(trials)):
                fewest[trial.edge] = wrong[-1]
                measured[trial.edge] = change

    def _pass_cost(self, rows: list[int]) -> float:
        """Of a pass, beside that of its trials, in trials."""
        calls, work = self._circuit.work(rows)
        return calls * _CALL_COST.get(self._parts[0].device, _CALL_COST_ELSEWHERE) / work

    def _most(self, rows: list[int]) -> int:
        """How many removals fit into one pass."""
        everywhere = self._circuit.needs.readers_everywhere[rows].any()
        part = self._parts[0]
        tokens = part.n_prompts * (self._width if everywhere else 1)
        by_logits = _LOGIT_ELEMENTS // (part.n_prompts * part.variants.logits.shape[1])
        return max(1, min(self._max_tokens // tokens, by_logits))


class _Part:
    """Some of the prompts."""

    def __init__(
        self, bound: BoundAblation, prompts: Prompts, objective: Objective, kept: np.ndarray
    ) -> None:
        self._prompts = prompts.to(bound.model.cfg.device or "cpu")
        self.n_prompts = len(prompts)
        self.device = self._prompts.clean.device.type
        self._objective = objective
        needed = objective.needs_full_logits
        self._full = full_logits(bound.model, self._prompts) if needed else None
        self.variants = CircuitVariants(bound, self._prompts, kept)

    def loss(self) -> float:
        """Summed over the prompts, of the circuit as it stands."""
        return float(self._losses(self.variants.logits[None])[0])

    def losses(self, rows: list[int], kept: np.ndarray) -> Float[Tensor, " variants"]:
        """The same of variants."""
        return self._losses(self.variants.run(rows, kept))

    @torch.no_grad()
    def _losses(self, logits: Float[Tensor, "variants n vocab"]) -> Float[Tensor, " variants"]:
        variants, n = logits.shape[:2]
        again = torch.arange(n, device=logits.device).repeat(variants)
        full = None if self._full is None else self._full.repeat(variants, 1)
        losses = self._objective(logits.flatten(0, 1), self._prompts[again], full)
        return losses.view(variants, n).cpu().sum(1, dtype=torch.float64)
