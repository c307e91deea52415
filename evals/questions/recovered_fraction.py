"""Faithfulness as the share of the full model's logit difference that a circuit recovers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.answers import Answer
from sparse_lens.evals.curve_area import recovered_fractions
from sparse_lens.evals.intervals import ends_of_interval, resampled_means
from sparse_lens.evals.metrics import measure, with_full_logits
from sparse_lens.evals.question import FAITHFULNESS, Answers, Column, Question, Subject
from sparse_lens.objectives import logit_difference
from sparse_lens.patching import BATCH_SIZE, BoundAblation
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class RecoveredFraction(Question):
    """The share of the logit difference that a circuit recovers.

    See :func:`recovered_fraction`.
    """

    def ask(self, subject: Subject) -> Answers:
        """The share, with the ends of its interval over examples."""
        answer = recovered_fraction(
            subject.bound, subject.circuit, subject.prompts, full_logits=subject.full_logits
        )
        return {"fraction": answer.mean, "low": answer.low, "high": answer.high}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The share."""
        return (
            Column(
                answer="fraction",
                heading="recovered",
                title="share of the full model's logit difference, above that of the empty circuit",
                group=FAITHFULNESS,
                meaning=(
                    "The logit difference of the circuit on a scale with the empty circuit at 0% "
                    "and the full model at 100%."
                ),
                form=".1%",
            ),
        )


def recovered_fraction(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Answer:
    """The share of the logit difference that a circuit recovers.

    (m(circuit) - m(empty)) / (m(full) - m(empty)) with m the mean logit difference, as in Mueller
    et al. 2025 (2504.13151). A ratio of means: an example's value is its part in it,
    (m_i(circuit) - m_i(empty)) over the same mean denominator.

    Args:
        full_logits: the full model's, from `model_logits`, where they are at hand.
        seed: of the bootstrap, which draws examples for all three means together.

    Raises:
        ValueError: when the full model and the empty circuit do not differ.
    """
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    kept, empty = (
        measure(
            bound, candidate, prompts, full_logits=full_logits, batch_size=batch_size
        ).logit_difference.double()
        for candidate in (circuit, Circuit.empty(bound.graph))
    )
    full = logit_difference(full_logits, prompts).double()
    (fraction,) = recovered_fractions(
        [float(kept.mean())], full=float(full.mean()), empty=float(empty.mean())
    )
    means = resampled_means(torch.stack([kept - empty, full - empty], -1), seed=seed)
    low, high = ends_of_interval(means[:, 0] / means[:, 1])
    return Answer(fraction, low, high, (kept - empty) / (full - empty).mean())
