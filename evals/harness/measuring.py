"""All held-out measurements of one job: the chosen circuit, its controls, and the curve."""

from __future__ import annotations

import torch

from sparse_lens.circuit import Circuit
from sparse_lens.discovery import Discovery
from sparse_lens.evals.component_weights import component_weights
from sparse_lens.evals.controls import complement, random_circuit
from sparse_lens.evals.metrics import CircuitMetrics, compare_logits, measure, model_logits
from sparse_lens.evals.records import Measurement, MeasurementKind
from sparse_lens.patching import BoundAblation
from sparse_lens.task import Prompts


class Meter:
    """Measures circuits on a set of prompts, each circuit once, and the full model."""

    def __init__(self, bound: BoundAblation, prompts: Prompts) -> None:
        self.bound = bound
        self.prompts = prompts.to(bound.device)
        self.full_logits = model_logits(bound.model, self.prompts)
        self._weights = component_weights(bound.model, bound.graph)
        self._metrics: dict[tuple[bool, Circuit], CircuitMetrics] = {}

    def metrics(self, circuit: Circuit) -> CircuitMetrics:
        """Metrics of a circuit; cached, because several budgets may give the same circuit."""
        key = circuit.is_node_circuit, circuit
        if key not in self._metrics:
            self._metrics[key] = measure(
                self.bound, circuit, self.prompts, full_logits=self.full_logits
            )
        return self._metrics[key]

    def measurement(self, kind: MeasurementKind, circuit: Circuit, **requested: int) -> Measurement:
        """Measurement of a circuit and of its complement.

        Args:
            requested: the requested sizes, and the index of the draw.
        """
        kept, ablated = self.metrics(circuit), self.metrics(complement(circuit))
        return self._measurement(kind, circuit, kept, ablated, **requested)

    def full(self) -> Measurement:
        """The model itself, not patched; with all of it ablated nothing is left."""
        circuit, empty = Circuit.full(self.bound.graph), Circuit.empty(self.bound.graph)
        return self._measurement("full", circuit, self._full_metrics(), self.metrics(empty))

    def empty(self) -> Measurement:
        """The empty circuit; with nothing ablated the model itself is left."""
        circuit = Circuit.empty(self.bound.graph)
        return self._measurement("empty", circuit, self.metrics(circuit), self._full_metrics())

    def _full_metrics(self) -> CircuitMetrics:
        return compare_logits(self.full_logits, self.full_logits, self.prompts)

    def _measurement(
        self,
        kind: MeasurementKind,
        circuit: Circuit,
        kept: CircuitMetrics,
        ablated: CircuitMetrics,
        **requested: int,
    ) -> Measurement:
        connected = circuit.connected()
        return Measurement(
            kind=kind,
            n_nodes=circuit.n_nodes,
            n_edges=circuit.n_edges,
            connected_nodes=connected.n_nodes,
            connected_edges=connected.n_edges,
            weights_inside=None if self._weights is None else self._weights.inside(circuit),
            **kept.means(),
            **{f"necessity_{name}": value for name, value in ablated.means().items()},
            **requested,
        )


def measurements_of(
    meter: Meter,
    discovery: Discovery,
    chosen: Circuit,
    *,
    budgets: tuple[int, ...],
    random_draws: int,
    seed: int,
) -> tuple[Measurement, ...]:
    """The chosen circuit, the full model, the empty circuit, random ones, and the curve.

    Args:
        budgets: numbers of edges for the curve.
        random_draws: how many random circuits of the chosen one's size.
        seed: of the random circuits.
    """
    generator = torch.Generator().manual_seed(seed)
    requested = _requested(chosen)
    measurements = [meter.measurement("chosen", chosen, **requested), meter.full(), meter.empty()]
    for draw in range(random_draws):
        circuit = random_circuit(chosen, generator)
        measurements.append(meter.measurement("random", circuit, draw=draw, **requested))
    for n_edges in budgets:
        circuit = discovery.at(n_edges=n_edges)
        measurements.append(meter.measurement("budget", circuit, requested_edges=n_edges))
    return tuple(measurements)


def _requested(circuit: Circuit) -> dict[str, int]:
    """A ranking of nodes is asked for nodes, one of edges for edges."""
    if circuit.is_node_circuit:
        return {"requested_nodes": circuit.n_nodes}
    return {"requested_edges": circuit.n_edges}
