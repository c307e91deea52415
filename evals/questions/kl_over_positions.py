"""Faithfulness at all positions of the prompts, and not at the answer alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.answers import Answer
from sparse_lens.evals.question import FAITHFULNESS, Answers, Column, Question, Subject
from sparse_lens.objectives import KLDivergence
from sparse_lens.patching import BATCH_SIZE, BoundAblation, patched, suspended
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class KLOverPositions(Question):
    """KL(full model || circuit) as a mean over all positions of the prompts.

    See :func:`kl_over_positions`.
    """

    def ask(self, subject: Subject) -> Answers:
        """The mean in nats, with the ends of its interval over examples."""
        answer = kl_over_positions(subject.bound, subject.circuit, subject.prompts)
        return {"kl": answer.mean, "low": answer.low, "high": answer.high}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The mean."""
        return (
            Column(
                answer="kl",
                heading="KL everywhere",
                title="KL(full || circuit) over all positions, nats",
                group=FAITHFULNESS,
                meaning=(
                    "The mean over all positions that are not padding: how much of what the model "
                    "predicts on the way to the answer the circuit predicts, too."
                ),
            ),
        )


@torch.no_grad()
def kl_over_positions(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    where: Bool[Tensor, "n pos"] | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Answer:
    """KL(full model || circuit) in nats as a mean over several positions of each prompt.

    Args:
        where: positions that count; all that are not padding if not given.
        seed: of the bootstrap.

    Raises:
        ValueError: for a prompt of which no position counts.
    """
    prompts = prompts.to(bound.device)
    where = real_positions(prompts) if where is None else where.to(prompts.clean.device)
    if where.shape != prompts.clean.shape:
        raise ValueError(
            f"where says of each of {list(prompts.clean.shape)} tokens whether it counts, got "
            f"shape {list(where.shape)}."
        )
    nowhere = (~where.any(1)).nonzero().flatten().tolist()
    if nowhere:
        raise ValueError(f"no position counts of prompts {nowhere[:5]}; mark one of each or more.")
    values, start = [], 0
    for batch, batch_ablation in bound.batches(prompts, batch_size):
        counts = where[start : start + len(batch)]
        start += len(batch)
        with suspended(bound.model):
            full = bound.model(batch.clean)[counts]
        with patched(bound.model, circuit, ablation=batch_ablation, prompts=batch):
            logits = bound.model(batch.clean)[counts]
        kl = torch.zeros(counts.shape, device=logits.device)
        kl[counts] = KLDivergence()(logits, batch, full).to(kl.dtype)
        values.append(kl.sum(1) / counts.sum(1))
    return Answer.of(torch.cat(values), seed=seed)


def real_positions(prompts: Prompts) -> Bool[Tensor, "n pos"]:
    """True at all tokens that are not padding."""
    n, width = prompts.clean.shape
    if prompts.lengths is None:
        return torch.ones(n, width, dtype=torch.bool, device=prompts.clean.device)
    return torch.arange(width, device=prompts.clean.device) < prompts.lengths[:, None]
