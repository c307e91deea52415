"""ACDC on a component graph: many removals in one pass, to the circuit of one at a time."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.baselines.acdc.order import sublayers_from_the_output
from sparse_lens.baselines.acdc.run import Edge, Rule, Run
from sparse_lens.circuit import Circuit
from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.patching import BoundAblation, full_logits
from sparse_lens.patching.variants.circuit_variants import CircuitVariants
from sparse_lens.task import Prompts

_FIRST_BATCH = 16
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
        self._size = _FIRST_BATCH

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
        guesses = [True] * len(edges)
        while edges:
            size = min(self._size, self._most(rows))
            settled = self._try(edges[:size], guesses, rule)
            edges, guesses = edges[settled:], guesses[settled:]
            self._size = 2 * size if settled == size else max(_FIRST_BATCH, 2 * settled)

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

    def _try(self, edges: list[tuple[int, int]], guesses: list[bool], rule: Rule) -> int:
        """Try the removal of each edge from what is left if all guesses before it are right.

        Decides on edges up to the first wrong guess, and guesses anew for those after it, whose
        removal will not change the loss very differently; how many were decided on.

        Args:
            guesses: whether the edges will go.
        """
        rows = sorted({row for row, _ in edges})
        left = self._circuit.kept[rows]
        variants = []
        for (row, writer), goes in zip(edges, guesses, strict=False):
            variants.append(left.copy())
            variants[-1][rows.index(row), writer] = False
            left = variants[-1] if goes else left
        kept = np.stack(variants)
        losses = torch.stack([part.losses(rows, kept) for part in self._parts]).sum(0) / self._n
        self._n_passes += len(self._parts)
        before, settled, last_removed = self._loss, len(edges), None
        for i, (edge, loss) in enumerate(zip(edges, losses.tolist(), strict=True)):
            change, guess = loss - before, guesses[i]
            goes = rule.removes(change)
            before = loss if guess else before
            if i > settled - 1:
                guesses[i] = goes
                continue
            self._changes[(EDGES, *edge)] = change
            self._margin = min(self._margin, rule.margin(change))
            if goes:
                self._loss, last_removed = loss, i
            if goes != guess:
                settled = i + 1
        if last_removed is not None:
            for part in self._parts:
                part.variants.adopt(last_removed)
        return settled

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
        return losses.view(variants, n).cpu().sum(1, dtype=torch.float64)
