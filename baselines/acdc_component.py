"""ACDC on a component graph: many removals in one pass, to the circuit of one at a time."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.baselines.acdc_order import sublayers_from_the_output
from sparse_lens.baselines.acdc_run import Edge, Rule, Run
from sparse_lens.circuit import Circuit
from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.patching import BoundAblation, full_logits
from sparse_lens.patching.variants import CircuitVariants
from sparse_lens.task import Prompts

_FIRST_BATCH = 8
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
    search = _Search(bound, prompts, objective, start, max_tokens)
    for block, rows in sublayers_from_the_output(bound.graph):
        assert block == EDGES
        search.prune(list(rows), rule)
    return search.result(rule)


class _Search:
    def __init__(
        self,
        bound: BoundAblation,
        prompts: Prompts,
        objective: Objective,
        start: Circuit,
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
        self._try = _FIRST_BATCH

    @property
    def _circuit(self) -> CircuitVariants:
        return self._parts[0].variants

    def prune(self, rows: list[int], rule: Rule) -> None:
        """Try all edges into the readers of one sublayer."""
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
        done = 0
        while done < len(edges):
            size = min(self._try, self._most(rows))
            batch = edges[done : done + size]
            removed = self._remove_from_the_front(batch, rule)
            done += min(removed + 1, len(batch))
            self._try = 2 * size if removed == size else max(2, removed + 1)

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

    def _remove_from_the_front(self, edges: list[tuple[int, int]], rule: Rule) -> int:
        """Remove edges, one after the other, up to the first that stays; how many went."""
        rows = sorted({row for row, _ in edges})
        kept = np.repeat(self._circuit.kept[None, rows], len(edges), axis=0)
        for i, (row, writer) in enumerate(edges):
            kept[i:, rows.index(row), writer] = False
        losses = torch.stack([part.losses(rows, kept) for part in self._parts]).sum(0) / self._n
        self._n_passes += len(self._parts)
        removed = 0
        for (row, writer), loss in zip(edges, losses.tolist(), strict=True):
            change = loss - self._loss
            self._changes[EDGES, row, writer] = change
            self._margin = min(self._margin, rule.margin(change))
            if not rule.removes(change):
                break
            self._loss = loss
            removed += 1
        if removed:
            for part in self._parts:
                part.variants.adopt(removed - 1)
        return removed

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
        return losses.view(variants, n).sum(1, dtype=torch.float64)
