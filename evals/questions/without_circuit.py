"""Necessity: the circuit is ablated and the rest of the model kept."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.controls import complement, random_circuit
from sparse_lens.evals.metrics import CircuitMetrics, measure, with_full_logits
from sparse_lens.evals.questions.draws import Draws, generator_of
from sparse_lens.patching import BoundAblation
from sparse_lens.search import BATCH_SIZE
from sparse_lens.task import Prompts


@dataclass(frozen=True, eq=False)
class Necessity:
    """What is left of the model without its circuit, beside what random ablations leave."""

    ablated: CircuitMetrics
    """With the circuit ablated: a circuit that is necessary leaves a high task loss."""

    random: Draws
    """With random circuits of the same size ablated; `circuits` are those that ran."""


def necessity(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    draws: int = 3,
    seed: int = 0,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    batch_size: int = BATCH_SIZE,
) -> Necessity:
    """Ablate the circuit, keep the rest, and the task must break (Gao et al. 2025, 2511.13653).

    Args:
        draws: of random circuits.
        seed: of the draws.
        full_logits: the full model's, from `model_logits`, where they are at hand.
    """
    generator = generator_of(seed, draws)
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    drawn = (random_circuit(circuit, generator) for _ in range(draws))
    rests = (complement(circuit), *(complement(one) for one in drawn))
    ablated, *random = (
        measure(bound, rest, prompts, full_logits=full_logits, batch_size=batch_size)
        for rest in rests
    )
    return Necessity(ablated, Draws(rests[1:], tuple(random)))
