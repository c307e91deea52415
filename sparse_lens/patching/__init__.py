"""The masked forward pass: a model runs as one of its circuits. Nothing else touches hooks."""

from sparse_lens.patching.ablations.binding import BoundAblation, bind
from sparse_lens.patching.activations import Values, activations, mean_activations
from sparse_lens.patching.exact.effects import exact_edge_effects, exact_node_effects
from sparse_lens.patching.fit import check_prompts
from sparse_lens.patching.gradients.effects import edge_effects, node_effects
from sparse_lens.patching.gradients.points import GradientPoints
from sparse_lens.patching.hooks import counted, frozen
from sparse_lens.patching.norms import has_norms
from sparse_lens.patching.removal.kept import Kept
from sparse_lens.patching.removal.runs import CircuitRuns, circuit_runs
from sparse_lens.patching.run import (
    answer_logits,
    circuit_activations,
    full_logits,
    full_logits_for,
    patched,
    run_circuit,
)

__all__ = [
    "BoundAblation",
    "CircuitRuns",
    "GradientPoints",
    "Kept",
    "Values",
    "activations",
    "answer_logits",
    "bind",
    "check_prompts",
    "circuit_activations",
    "circuit_runs",
    "counted",
    "edge_effects",
    "exact_edge_effects",
    "exact_node_effects",
    "frozen",
    "full_logits",
    "full_logits_for",
    "has_norms",
    "mean_activations",
    "node_effects",
    "patched",
    "run_circuit",
]
