"""Faithfulness beyond `measure`: the recovered logit difference, and KL at several positions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.answers import Answer
from sparse_lens.evals.curve_area import recovered_fractions
from sparse_lens.evals.intervals import ends_of_interval, resampled_means
from sparse_lens.evals.metrics import measure, with_full_logits
from sparse_lens.objectives import KLDivergence, logit_difference
from sparse_lens.patching import BoundAblation, patched, suspended
from sparse_lens.search import BATCH_SIZE
from sparse_lens.task import Prompts


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
            bound, one, prompts, full_logits=full_logits, batch_size=batch_size
        ).logit_difference.double()
        for one in (circuit, Circuit.empty(bound.graph))
    )
    full = logit_difference(full_logits, prompts).double()
    (fraction,) = recovered_fractions(
        [float(kept.mean())], full=float(full.mean()), empty=float(empty.mean())
    )
    means = resampled_means(torch.stack([kept - empty, full - empty], -1), seed=seed)
    low, high = ends_of_interval(means[:, 0] / means[:, 1])
    return Answer(fraction, low, high, (kept - empty) / (full - empty).mean())


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
    where = _real_positions(prompts) if where is None else where.to(prompts.clean.device)
    if where.shape != prompts.clean.shape:
        raise ValueError(
            f"where says of each of {list(prompts.clean.shape)} tokens whether it counts, got "
            f"shape {list(where.shape)}."
        )
    nowhere = (~where.any(1)).nonzero().flatten().tolist()
    if nowhere:
        raise ValueError(f"no position counts of prompts {nowhere[:5]}; mark one of each or more.")
    values, start = [], 0
    for batch, its_ablation in bound.batches(prompts, batch_size):
        counts = where[start : start + len(batch)]
        start += len(batch)
        with suspended(bound.model):
            full = bound.model(batch.clean)[counts]
        with patched(bound.model, circuit, ablation=its_ablation, prompts=batch):
            logits = bound.model(batch.clean)[counts]
        kl = torch.zeros(counts.shape, device=logits.device)
        kl[counts] = KLDivergence()(logits, batch, full).to(kl.dtype)
        values.append(kl.sum(1) / counts.sum(1))
    return Answer.of(torch.cat(values), seed=seed)


def _real_positions(prompts: Prompts) -> Bool[Tensor, "n pos"]:
    n, width = prompts.clean.shape
    if prompts.lengths is None:
        return torch.ones(n, width, dtype=torch.bool, device=prompts.clean.device)
    return torch.arange(width, device=prompts.clean.device) < prompts.lengths[:, None]
