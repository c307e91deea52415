"""How well a circuit stands for its model on some prompts, one value per example."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.evals.answers import Answer
from sparse_lens.objectives import KLDivergence, TaskLoss, logit_difference
from sparse_lens.patching import BATCH_SIZE, BoundAblation, circuit_logits, full_logits
from sparse_lens.task import Prompts

MetricName = Literal["kl", "task_loss", "logit_difference", "accuracy", "exact_match"]


@dataclass(frozen=True, eq=False)
class CircuitMetrics:
    """A circuit's answers beside those of the full model, per example."""

    kl: Float[Tensor, " n"]
    """KL(full model || circuit) in nats, summed over the whole vocabulary."""

    task_loss: Float[Tensor, " n"]
    """Cross-entropy in nats of the answers against the distractors (Gao et al. 2025)."""

    logit_difference: Float[Tensor, " n"]
    """Log-odds of the answers against the distractors."""

    accuracy: Float[Tensor, " n"]
    """1 where the answer beats the distractor, 1/2 where they tie, else 0."""

    exact_match: Float[Tensor, " n"]
    """1 where the most likely token of the whole vocabulary is the full model's, else 0."""

    def means(self) -> dict[str, float]:
        """Each metric's mean over the examples, by name."""
        return {f.name: float(getattr(self, f.name).cpu().double().mean()) for f in fields(self)}

    def answer(self, metric: MetricName, *, seed: int = 0) -> Answer:
        """One metric with its mean and a bootstrap interval over the examples.

        Args:
            seed: of the bootstrap.
        """
        return Answer.of(getattr(self, metric), seed=seed)


def measure(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    freeze_norm_scales: bool = False,
    batch_size: int = BATCH_SIZE,
) -> CircuitMetrics:
    """Run a circuit on prompts. With `complement(circuit)`, this measures necessity.

    Args:
        bound: what absent nodes and edges carry, bound to the model.
        full_logits: the full model's, from `model_logits`, where they are at hand.
        freeze_norm_scales: norms divide by what they divide by in the full model.

    Raises:
        ValueError: when norm scales are to be frozen in a model that has no norms.
    """
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    logits = circuit_logits(
        bound, circuit, prompts, freeze_norm_scales=freeze_norm_scales, batch_size=batch_size
    )
    return compare_logits(logits, full_logits, prompts)


def with_full_logits(
    bound: BoundAblation,
    prompts: Prompts,
    full_logits: Float[Tensor, "n vocab"] | None,
    batch_size: int,
) -> tuple[Prompts, Float[Tensor, "n vocab"]]:
    """The prompts where the model is, and the full model's logits, computed if not at hand."""
    prompts = prompts.to(bound.device)
    if full_logits is None:
        full_logits = model_logits(bound.model, prompts, batch_size=batch_size)
    return prompts, full_logits


@torch.no_grad()
def model_logits(
    model: HookedTransformer, prompts: Prompts, *, batch_size: int = BATCH_SIZE
) -> Float[Tensor, "n vocab"]:
    """The whole model's logits at the answer positions, whatever circuit it is patched to be."""
    return torch.cat([full_logits(model, batch) for batch in prompts.batches(batch_size)])


@torch.no_grad()
def compare_logits(
    logits: Float[Tensor, "n vocab"], full_logits: Float[Tensor, "n vocab"], prompts: Prompts
) -> CircuitMetrics:
    """The metrics, from the logits at the answer positions of a circuit and of the full model."""
    difference = logit_difference(logits, prompts)
    return CircuitMetrics(
        kl=KLDivergence()(logits, prompts, full_logits),
        task_loss=TaskLoss()(logits, prompts),
        logit_difference=difference,
        accuracy=(difference > 0).float() + (difference == 0).float() / 2,
        exact_match=(logits.argmax(-1) == full_logits.argmax(-1)).float(),
    )
