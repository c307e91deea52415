"""Necessity: the circuit is ablated and the rest of the model kept."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.controls import complement, random_circuit
from sparse_lens.evals.draws import Draws, check_count, generator_of
from sparse_lens.evals.metrics import CircuitMetrics, measure, with_full_logits
from sparse_lens.evals.question import CONTROLS, Answers, Column, Question, Subject
from sparse_lens.patching import BATCH_SIZE, BoundAblation
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class Necessity(Question):
    """What random ablations of a circuit's size leave of the model, to set beside its own.

    Every measurement of a comparison has what is left with its own circuit ablated. See
    :func:`necessity`.
    """

    draws: int = 3
    """Random circuits of the same size that are ablated, each alone."""

    def __post_init__(self) -> None:
        check_count("draws", self.draws)

    def ask(self, subject: Subject) -> Answers:
        """The metrics with each of the random circuits ablated."""
        # The same as the comparison's random controls, as far as it has as many.
        rests = _random_rests(subject.circuit, draws=self.draws, seed=subject.seed)
        return Draws(rests, tuple(map(subject.measured, rests))).means()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The task loss with random circuits ablated."""
        return (
            Column(
                answer="task_loss",
                heading="random ablated",
                title="two-way loss with random circuits of the same size ablated",
                group=CONTROLS,
                meaning=(
                    "Random circuits of the chosen one's size are ablated and the rest kept: a "
                    "circuit that is necessary leaves a higher loss than these when it is ablated."
                ),
            ),
        )


@dataclass(frozen=True, eq=False)
class NecessityResult:
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
) -> NecessityResult:
    """Ablate the circuit, keep the rest, and the task must break (Gao et al. 2025, 2511.13653).

    Args:
        draws: of random circuits.
        seed: of the draws.
        full_logits: the full model's, from `model_logits`, where they are at hand.
    """
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)

    def measured(rest: Circuit) -> CircuitMetrics:
        return measure(bound, rest, prompts, full_logits=full_logits, batch_size=batch_size)

    rests = _random_rests(circuit, draws=draws, seed=seed)
    random = Draws(rests, tuple(map(measured, rests)))
    return NecessityResult(measured(complement(circuit)), random)


def _random_rests(circuit: Circuit, *, draws: int, seed: int) -> tuple[Circuit, ...]:
    """What random circuits of the same size leave out."""
    generator = generator_of(seed, draws)
    return tuple(complement(random_circuit(circuit, generator)) for _ in range(draws))
