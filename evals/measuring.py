"""All held-out measurements of one job: the chosen circuit, its controls, and the curve."""

from __future__ import annotations

import torch

from sparse_lens.circuit import Circuit
from sparse_lens.evals.controls import complement, random_circuit
from sparse_lens.evals.metrics import CircuitMetrics, compare_logits, measure, model_logits
from sparse_lens.evals.records import Measurement, MeasurementKind
from sparse_lens.method import Discovery
from sparse_lens.patching import BoundAblation
from sparse_lens.task import Prompts


def measurements_of(
    bound: BoundAblation,
    prompts: Prompts,
    discovery: Discovery,
    chosen: Circuit,
    *,
    budgets: tuple[int, ...],
    random_draws: int,
    seed: int,
) -> tuple[Measurement, ...]:
    """The chosen circuit first, then the full model, the empty circuit, random ones, the curve.

    Args:
        budgets: numbers of edges for the curve.
        random_draws: how many random circuits of the chosen one's size.
        seed: of the draws.
    """
    prompts = prompts.to(bound.model.cfg.device or "cpu")
    meter = _Meter(bound, prompts)
    generator = torch.Generator().manual_seed(seed)
    found = [meter("chosen", chosen, **_requested(chosen)), meter.full(), meter.empty()]
    for draw in range(random_draws):
        circuit = random_circuit(chosen, generator)
        found.append(meter("random", circuit, draw=draw, **_requested(chosen)))
    for n_edges in budgets:
        found.append(meter("budget", discovery.at(n_edges=n_edges), requested_edges=n_edges))
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

    def _measure(self, circuit: Circuit) -> CircuitMetrics:
        return measure(self._bound, circuit, self._prompts, full_logits=self._logits)


def _measurement(
    kind: MeasurementKind,
    circuit: Circuit,
    kept: CircuitMetrics,
    ablated: CircuitMetrics,
    **asked: int,
) -> Measurement:
    connected = circuit.connected()
    return Measurement(
        kind=kind,
        n_nodes=circuit.n_nodes,
        n_edges=circuit.n_edges,
        connected_nodes=connected.n_nodes,
        connected_edges=connected.n_edges,
        **kept.means(),
        **{f"necessity_{name}": value for name, value in ablated.means().items()},
        **asked,
    )


def _requested(circuit: Circuit) -> dict[str, int]:
    """A ranking of nodes is asked for nodes, one of edges for edges."""
    if circuit.is_node_circuit:
        return {"requested_nodes": circuit.n_nodes}
    return {"requested_edges": circuit.n_edges}
