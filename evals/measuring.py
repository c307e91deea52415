"""All held-out measurements of one job: the chosen circuit, its controls, and the curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from sparse_lens.circuit import Circuit
from sparse_lens.evals.controls import complement, random_circuit
from sparse_lens.evals.metrics import CircuitMetrics, compare_logits, measure, model_logits
from sparse_lens.evals.questions import Draws, Questions, minimality, partly_ablated, resampled
from sparse_lens.evals.records import Measurement, MeasurementKind
from sparse_lens.method import Discovery
from sparse_lens.patching import BoundAblation, has_norms
from sparse_lens.task import Prompts


def measurements_of(
    bound: BoundAblation,
    prompts: Prompts,
    discovery: Discovery,
    chosen: Circuit,
    *,
    budgets: tuple[int, ...],
    random_draws: int,
    questions: Questions,
    seed: int,
) -> tuple[Measurement, ...]:
    """The chosen circuit, the full model, the empty circuit, random ones, the curve, the questions.

    Args:
        budgets: numbers of edges for the curve.
        random_draws: how many random circuits of the chosen one's size.
        questions: what else is asked of the chosen circuit.
        seed: of all draws; what one question draws does not depend on the others.
    """
    prompts = prompts.to(bound.model.cfg.device or "cpu")
    meter = _Meter(bound, prompts)
    generator = torch.Generator().manual_seed(seed)
    first = meter("chosen", chosen, **_requested(chosen))
    if questions.minimality_nodes:
        first = replace(first, **meter.minimality(chosen, questions, seed))
    found = [first, meter.full(), meter.empty()]
    for draw in range(random_draws):
        circuit = random_circuit(chosen, generator)
        found.append(meter("random", circuit, draw=draw, **_requested(chosen)))
    for n_edges in budgets:
        found.append(meter("budget", discovery.at(n_edges=n_edges), requested_edges=n_edges))
    found += meter.answers(chosen, questions, seed)
    return tuple(found)


class _Meter:
    def __init__(self, bound: BoundAblation, prompts: Prompts) -> None:
        self._bound, self._prompts = bound, prompts
        self._logits = model_logits(bound.model, prompts)
        self._full = compare_logits(self._logits, self._logits, prompts)
        self._empty = self._measure(Circuit.empty(bound.graph))

    def __call__(self, kind: MeasurementKind, circuit: Circuit, **asked: int) -> Measurement:
        kept, ablated = self._measure(circuit), self._measure(complement(circuit))
        return _measurement(kind, circuit, kept, ablated, **asked)

    def full(self) -> Measurement:
        """The model itself; with all of it ablated nothing is left."""
        return _measurement("full", Circuit.full(self._bound.graph), self._full, self._empty)

    def empty(self) -> Measurement:
        return _measurement("empty", Circuit.empty(self._bound.graph), self._empty, self._full)

    def answers(self, chosen: Circuit, questions: Questions, seed: int) -> Iterator[Measurement]:
        """The chosen circuit under other ablations."""
        if questions.resample_draws:
            draws = resampled(
                self._bound,
                chosen,
                self._prompts,
                draws=questions.resample_draws,
                seed=seed,
                full_logits=self._logits,
            )
            yield from _of_draws("resample", draws)
        if questions.frozen_norms and has_norms(self._bound.model):
            frozen = measure(
                self._bound,
                chosen,
                self._prompts,
                full_logits=self._logits,
                freeze_norm_scales=True,
            )
            yield _measurement("frozen_norms", chosen, frozen, None)
        if questions.subset_draws:
            draws = partly_ablated(
                self._bound,
                chosen,
                self._prompts,
                share=questions.subset_share,
                draws=questions.subset_draws,
                seed=seed,
                full_logits=self._logits,
            )
            yield from _of_draws("subset", draws)

    def minimality(self, chosen: Circuit, questions: Questions, seed: int) -> dict[str, Any]:
        """Fields of the chosen circuit's measurement."""
        found = minimality(
            self._bound,
            chosen,
            self._prompts,
            dispensable_below=questions.dispensable_below,
            max_nodes=questions.minimality_nodes,
            seed=seed,
        )
        n_removed = len(found.nodes)
        share = len(found.dispensable) / n_removed if n_removed else None
        return {"removed_nodes": n_removed, "dispensable_share": share}

    def _measure(self, circuit: Circuit) -> CircuitMetrics:
        return measure(self._bound, circuit, self._prompts, full_logits=self._logits)


def _of_draws(kind: MeasurementKind, draws: Draws) -> Iterator[Measurement]:
    for draw, (circuit, metrics) in enumerate(zip(draws.circuits, draws.metrics, strict=True)):
        yield _measurement(kind, circuit, metrics, None, draw=draw)


def _measurement(
    kind: MeasurementKind,
    circuit: Circuit,
    kept: CircuitMetrics,
    ablated: CircuitMetrics | None,
    **asked: int,
) -> Measurement:
    connected = circuit.connected()
    necessity = {} if ablated is None else ablated.means()
    return Measurement(
        kind=kind,
        n_nodes=circuit.n_nodes,
        n_edges=circuit.n_edges,
        connected_nodes=connected.n_nodes,
        connected_edges=connected.n_edges,
        **kept.means(),
        **{f"necessity_{name}": value for name, value in necessity.items()},
        **asked,
    )


def _requested(circuit: Circuit) -> dict[str, int]:
    """A ranking of nodes is asked for nodes, one of edges for edges."""
    if circuit.is_node_circuit:
        return {"requested_nodes": circuit.n_nodes}
    return {"requested_edges": circuit.n_edges}
