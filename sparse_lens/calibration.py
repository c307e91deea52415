"""Calibration of a circuit: a scale and a shift of the logit difference between two answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sparse_lens.objectives import logit_difference
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class Calibration:
    """Replaces the difference D between the logits of two answer tokens by scale * D + shift.

    D is the logit of the smaller token id minus that of the larger, so that the shift favours one
    of the two tokens whichever is right. (Adding a constant to all logits changes no loss.)
    """

    scale: float = 1.0
    shift: float = 0.0

    def loss(self, logits: Float[Tensor, "n vocab"], prompts: Prompts) -> Float[Tensor, " n"]:
        """The two-way task loss after calibration."""
        return _loss(logit_difference(logits, prompts), _direction(prompts), self.scale, self.shift)


def fit_calibration(
    logits: Float[Tensor, "n vocab"], prompts: Prompts, *, n_steps: int = 16
) -> Calibration:
    """Fit scale and shift to the two-way loss by LBFGS (Gao et al. 2025: 16 steps)."""
    difference = logit_difference(logits, prompts).detach()
    direction = _direction(prompts).to(difference.device)
    parameters = torch.tensor([1.0, 0.0], device=difference.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=n_steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(difference, direction, parameters[0], parameters[1]).mean()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    scale, shift = parameters.tolist()
    return Calibration(scale, shift)


def _loss(difference: Tensor, direction: Tensor, scale, shift) -> Float[Tensor, " n"]:
    """Cross-entropy of the answer against the distractor, softplus(-z) with z the calibrated
    difference between their logits.

    With d = 1 or -1 the direction, D = d * difference, and the answer leads by
    d * (scale * D + shift) = scale * difference + shift * d.
    """
    return F.softplus(-(scale * difference + shift * direction.to(difference.device)))


def _direction(prompts: Prompts) -> Float[Tensor, " n"]:
    """1 where the answer has the smaller token id, -1 where the distractor has."""
    if prompts.distractors is None or prompts.answers.ndim + prompts.distractors.ndim != 2:
        raise ValueError("calibration needs one answer and one distractor per prompt.")
    return torch.where(prompts.answers < prompts.distractors, 1.0, -1.0)
