"""ACDC one edge at a time, with a full forward pass per edge: for any graph and model."""

from __future__ import annotations

import torch

from sparse_lens.ablation import BoundConstants
from sparse_lens.baselines.acdc.order import sublayers_from_the_output
from sparse_lens.baselines.acdc.pruning_run import Edge, Rule, Run
from sparse_lens.circuit import Circuit
from sparse_lens.objectives import Objective
from sparse_lens.patching import (
    BoundAblation,
    acting_rows,
    answer_logits,
    full_logits_for,
    patched,
)
from sparse_lens.task import Prompts


def run_one_by_one(
    bound: BoundAblation,
    prompts: Prompts,
    objective: Objective,
    start: Circuit,
    rule: Rule,
    *,
    max_tokens: int,
) -> Run:
    """Run ACDC at one threshold, testing one edge per forward pass.

    Args:
        max_tokens: prompts times positions in one pass.
    """
    graph = bound.graph
    search = _Search(bound, prompts, objective, start, max_tokens)
    for block, rows in sublayers_from_the_output(graph):
        for row in rows:
            search.prune(block, row, rule)
    return search.result(rule)


class _Search:
    """The edges that are kept so far, and the loss of the circuit that they make."""

    def __init__(
        self,
        bound: BoundAblation,
        prompts: Prompts,
        objective: Objective,
        start: Circuit,
        max_tokens: int,
    ) -> None:
        self._graph, self._model, self._start = bound.graph, bound.model, start
        self._kept = {block: start.edge_mask(block) for block in bound.graph.blocks}
        self._objective, self._n_prompts = objective, len(prompts)
        batch_size = max(1, max_tokens // prompts.clean.shape[1])
        self._batches = []
        for batch, batch_bound in bound.batches(prompts, batch_size):
            batch = batch.to(bound.device)
            # Ablated values are the same in every test: compute them once.
            constants = BoundConstants(self._model, self._graph, batch_bound.values(batch))
            full = full_logits_for(objective, self._model, batch)
            self._batches.append((batch, constants, full))
        self._changes: dict[Edge, float] = {}
        self._margin, self._n_passes = float("inf"), 0
        self._loss: float | None = None

    def prune(self, block: str, row: int, rule: Rule) -> None:
        """Test all edges into one reader, from the latest writer backwards."""
        kept = self._kept[block][row]
        writers = kept.nonzero().flatten().flip(0).tolist()
        if not writers:
            return
        if not bool(acting_rows(self._model, self._circuit())[block][row]):
            kept[:] = False
            self._loss = None
            return
        for writer in writers:
            before = self._current_loss()
            kept[writer] = False
            after = self._measured()
            change = after - before
            self._changes[block, row, writer] = change
            self._margin = min(self._margin, rule.margin(change))
            if rule.removes(change):
                self._loss = after
            else:
                kept[writer] = True

    def result(self, rule: Rule) -> Run:
        """The run, when all readers have been visited."""
        return Run(
            rule=rule,
            circuit=self._circuit(),
            loss=self._current_loss(),
            changes=self._changes,
            margin=self._margin,
            n_passes=self._n_passes,
        )

    def _circuit(self) -> Circuit:
        return Circuit.from_edge_masks(
            self._graph, self._kept, node_masks=dict(self._start.node_masks)
        )

    def _current_loss(self) -> float:
        if self._loss is None:
            self._loss = self._measured()
        return self._loss

    @torch.no_grad()
    def _measured(self) -> float:
        """The mean loss of the circuit that is kept now, computed anew."""
        total, circuit = 0.0, self._circuit()
        for batch, constants, full in self._batches:
            with patched(self._model, circuit, ablation=constants, prompts=batch):
                losses = self._objective(answer_logits(self._model, batch), batch, full)
            total += float(losses.cpu().sum(dtype=torch.float64))
        self._n_passes += len(self._batches)
        return total / self._n_prompts
