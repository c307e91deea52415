"""All held-out measurements of one job: the chosen circuit, its controls, and the curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from sparse_lens.circuit import Circuit
from sparse_lens.discovery import Discovery
from sparse_lens.evals.component_weights import component_weights
from sparse_lens.evals.controls import complement, random_circuit
from sparse_lens.evals.metrics import CircuitMetrics, compare_logits, measure, model_logits
from sparse_lens.evals.questions import (
    Draws,
    Questions,
    completeness,
    minimality,
    partly_ablated,
    resampled,
)
from sparse_lens.evals.records import Measurement, MeasurementKind
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
    prompts = prompts.to(bound.device)
    meter = _Meter(bound, prompts)
    generator = torch.Generator().manual_seed(seed)
    first = meter("chosen", chosen, **_requested(chosen))
    first = replace(first, **meter.parts(chosen, questions, seed))
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
        self._weights = component_weights(bound.model, bound.graph)
        self._logits = model_logits(bound.model, prompts)
        self._full = compare_logits(self._logits, self._logits, prompts)
        self._measured: dict[tuple[bool, Circuit], CircuitMetrics] = {}
        self._empty = self._measure(Circuit.empty(bound.graph))

    def __call__(self, kind: MeasurementKind, circuit: Circuit, **asked: int) -> Measurement:
        kept, ablated = self._measure(circuit), self._measure(complement(circuit))
        return self._measurement(kind, circuit, kept, ablated, **asked)

    def full(self) -> Measurement:
        """The model itself; with all of it ablated nothing is left."""
        circuit = Circuit.full(self._bound.graph)
        return self._measurement("full", circuit, self._full, self._empty)

    def empty(self) -> Measurement:
        circuit = Circuit.empty(self._bound.graph)
        return self._measurement("empty", circuit, self._empty, self._full)

    def answers(self, chosen: Circuit, questions: Questions, seed: int) -> Iterator[Measurement]:
        """The chosen circuit under other ablations."""
        subject, logits = (self._bound, chosen, self._prompts), self._logits
        if questions.resample_draws:
            n = questions.resample_draws
            yield from self._of_draws(
                "resample", resampled(*subject, draws=n, seed=seed, full_logits=logits)
            )
        if questions.frozen_norms and has_norms(self._bound.model):
            frozen = measure(*subject, full_logits=logits, freeze_norm_scales=True)
            yield self._measurement("frozen_norms", chosen, frozen, None)
        if questions.subset_draws:
            n, share = questions.subset_draws, questions.subset_share
            yield from self._of_draws(
                "subset",
                partly_ablated(*subject, share=share, draws=n, seed=seed, full_logits=logits),
            )

    def parts(self, chosen: Circuit, questions: Questions, seed: int) -> dict[str, Any]:
        """Fields of the chosen circuit's measurement: what becomes of it without some nodes."""
        subject, fields = (self._bound, chosen, self._prompts), {}
        if questions.minimality_nodes:
            below, n = questions.dispensable_below, questions.minimality_nodes
            found = minimality(
                *subject,
                dispensable_below=below,
                max_nodes=n,
                circuit_loss=self._measure(chosen).task_loss,
                seed=seed,
            )
            n_removed = len(found.nodes)
            share = len(found.dispensable) / n_removed if n_removed else None
            fields |= {"removed_nodes": n_removed, "dispensable_share": share}
        if questions.completeness_draws:
            share, n = questions.completeness_share, questions.completeness_draws
            scores = completeness(*subject, share=share, draws=n, seed=seed).scores
            fields["incompleteness"] = float(scores.mean())
            fields["worst_incompleteness"] = float(scores.max())
        return fields

    def _measure(self, circuit: Circuit) -> CircuitMetrics:
        """Once for each circuit: several budgets may come to the same."""
        key = circuit.is_node_circuit, circuit
        if key not in self._measured:
            found = measure(self._bound, circuit, self._prompts, full_logits=self._logits)
            self._measured[key] = found
        return self._measured[key]

    def _of_draws(self, kind: MeasurementKind, draws: Draws) -> Iterator[Measurement]:
        for draw, (circuit, metrics) in enumerate(zip(draws.circuits, draws.metrics, strict=True)):
            yield self._measurement(kind, circuit, metrics, None, draw=draw)

    def _measurement(
        self,
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
            weights_inside=None if self._weights is None else self._weights.inside(circuit),
            **kept.means(),
            **{f"necessity_{name}": value for name, value in necessity.items()},
            **asked,
        )


def _requested(circuit: Circuit) -> dict[str, int]:
    """A ranking of nodes is asked for nodes, one of edges for edges."""
    if circuit.is_node_circuit:
        return {"requested_nodes": circuit.n_nodes}
    return {"requested_edges": circuit.n_edges}
