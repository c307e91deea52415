"""Robustness to other values in what a circuit leaves out: those of random other prompts."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparse_lens.ablation import InterchangeAblation, draw_other_prompts
from sparse_lens.circuit import Circuit
from sparse_lens.evals.draws import Draws, check_count, generator_of
from sparse_lens.evals.metrics import measure, with_full_logits
from sparse_lens.evals.question import ROBUSTNESS, Answers, Column, Question, Subject
from sparse_lens.patching import BATCH_SIZE, BoundAblation, bind
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class ResampledValues(Question):
    """The circuit while absent nodes and edges carry their values on another random prompt.

    See :func:`resampled`.
    """

    draws: int = 2
    """Of another prompt for every prompt."""

    def __post_init__(self) -> None:
        check_count("draws", self.draws)

    def ask(self, subject: Subject) -> Answers:
        """The metrics of each draw."""
        return resampled(
            subject.bound,
            subject.circuit,
            subject.prompts,
            draws=self.draws,
            seed=subject.seed,
            full_logits=subject.full_logits,
        ).means()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The task loss."""
        return (
            Column(
                answer="task_loss",
                heading="resampled",
                target_words="with other prompts' values in place of what is ablated",
                title="two-way loss with absent values from other, randomly drawn prompts",
                group=ROBUSTNESS,
                meaning=(
                    "What is absent carries, in place of its ablated value, its value on another "
                    "prompt of the split, drawn at random: a circuit that holds only with the "
                    "values it was found with loses here."
                ),
            ),
        )


def resampled(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    draws: int = 2,
    seed: int = 0,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    batch_size: int = BATCH_SIZE,
) -> Draws:
    """The circuit while absent nodes and edges carry their values on another prompt.

    As in causal scrubbing (Chan et al. 2022), the other prompt is drawn at random, here one for all
    that is absent and in place of whatever `bound` would put there; see `draw_other_prompts`.
    Values that vary with another prompt do not cancel as those of one fixed mean can.

    Args:
        draws: of another prompt for every prompt.
        seed: of the draws.
        full_logits: the full model's, from `model_logits`, where they are at hand.

    Raises:
        ValueError: where a prompt has no other.
    """
    generator = generator_of(seed, draws)
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    metrics = []
    for _ in range(draws):
        sources = draw_other_prompts(prompts, generator).to(prompts.clean.device)  # [n]
        ablation = bind(bound.model, bound.graph, InterchangeAblation(prompts.clean[sources]))
        metrics.append(
            measure(ablation, circuit, prompts, full_logits=full_logits, batch_size=batch_size)
        )
    return Draws((circuit,) * draws, tuple(metrics))
