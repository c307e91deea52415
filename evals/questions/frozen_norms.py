"""Robustness to what ablations do to norms: their scales stay those of the full model."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_lens.evals.metrics import measure
from sparse_lens.evals.question import ROBUSTNESS, Answers, Column, Question, Subject
from sparse_lens.patching import has_norms


@dataclass(frozen=True)
class FrozenNorms(Question):
    """The circuit with norms that divide by what they divide by in the full model.

    Of a model without norms it is not asked.
    """

    def ask(self, subject: Subject) -> Answers:
        """The circuit's metrics."""
        if not has_norms(subject.bound.model):
            return {}
        return measure(
            subject.bound,
            subject.circuit,
            subject.prompts,
            full_logits=subject.full_logits,
            freeze_norm_scales=True,
        ).means()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The task loss."""
        return (
            Column(
                answer="task_loss",
                heading="frozen",
                target_words="with the scales of norms as in the full model",
                title="two-way loss with the scales of norms as in the full model",
                group=ROBUSTNESS,
                meaning=(
                    "Norms divide by what they divide by in the full model: a circuit that works "
                    "by rescaling what is left loses here."
                ),
            ),
        )
