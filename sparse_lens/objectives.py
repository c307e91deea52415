"""Differentiable losses on the logits at the answer position, one value per example."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_lens.task import Prompts


class Objective(ABC):
    """A loss per example; the lower, the better the circuit performs the task."""

    needs_full_logits: ClassVar[bool] = False
    """Whether the full model's logits must be passed."""

    least_at_full_model: ClassVar[bool] = False
    """Whether the full model has the smallest possible loss, so that the gradient is zero there."""

    @abstractmethod
    def __call__(
        self,
        logits: Float[Tensor, "n vocab"],
        prompts: Prompts,
        full_logits: Float[Tensor, "n vocab"] | None = None,
    ) -> Float[Tensor, " n"]:
        """The loss of each example.

        `logits` and `full_logits` are the circuit's and the full model's at the answer positions.
        """


@dataclass(frozen=True)
class TaskLoss(Objective):
    """Cross-entropy in nats of the answers against the distractors.

    The two-way loss of Gao et al. 2025 (2511.13653): the softmax is over the candidate tokens only.
    With D the logit difference it is -log sigmoid(D) = softplus(-D). A set of answers counts with
    its total probability.
    """

    def __call__(
        self,
        logits: Float[Tensor, "n vocab"],
        prompts: Prompts,
        full_logits: Float[Tensor, "n vocab"] | None = None,
    ) -> Float[Tensor, " n"]:
        return F.softplus(-logit_difference(logits, prompts))


@dataclass(frozen=True)
class NegatedLogitDifference(Objective):
    """Minus (logit of the answer - logit of the distractor).

    A set of tokens counts with the log-sum-exp of its logits.
    """

    def __call__(
        self,
        logits: Float[Tensor, "n vocab"],
        prompts: Prompts,
        full_logits: Float[Tensor, "n vocab"] | None = None,
    ) -> Float[Tensor, " n"]:
        return -logit_difference(logits, prompts)


@dataclass(frozen=True)
class KLDivergence(Objective):
    """KL(full model || circuit) in nats, summed over the whole vocabulary."""

    needs_full_logits: ClassVar[bool] = True
    least_at_full_model: ClassVar[bool] = True

    def __call__(
        self,
        logits: Float[Tensor, "n vocab"],
        prompts: Prompts,
        full_logits: Float[Tensor, "n vocab"] | None = None,
    ) -> Float[Tensor, " n"]:
        if full_logits is None:
            raise ValueError("KLDivergence compares with the full model: pass full_logits.")
        # KL(p || q) = sum over tokens of p (log p - log q)
        log_p = _precise(full_logits).log_softmax(-1)  # [n, vocab]
        log_q = _precise(logits).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)


@dataclass(frozen=True)
class NegatedProbabilityDifference(Objective):
    """Minus (probability of the answers - probability of the distractors), in -1..1.

    The measure of Hanna et al. 2023 (2305.00586) for greater-than: the softmax is over the whole
    vocabulary, and a set of tokens counts with its total probability.
    """

    def __call__(
        self,
        logits: Float[Tensor, "n vocab"],
        prompts: Prompts,
        full_logits: Float[Tensor, "n vocab"] | None = None,
    ) -> Float[Tensor, " n"]:
        return -probability_difference(logits, prompts)


OBJECTIVES: Mapping[str, type[Objective]] = MappingProxyType(
    {
        "task-loss": TaskLoss,
        "kl": KLDivergence,
        "logit-difference": NegatedLogitDifference,
        "probability-difference": NegatedProbabilityDifference,
    }
)
"""By their names on the command line."""


def probability_difference(
    logits: Float[Tensor, "n vocab"], prompts: Prompts
) -> Float[Tensor, " n"]:
    """Total probability of the answers minus that of the distractors."""
    probabilities = _precise(logits).softmax(-1)
    answers, distractors = _candidates(probabilities, prompts)
    return (probabilities * (answers.float() - distractors.float())).sum(-1)


def logit_difference(logits: Float[Tensor, "n vocab"], prompts: Prompts) -> Float[Tensor, " n"]:
    """Log-odds of the answers against the distractors: the difference of their log-sum-exps."""
    logits = _precise(logits)
    answers, distractors = _candidates(logits, prompts)
    return _log_sum_exp(logits, answers) - _log_sum_exp(logits, distractors)


def _candidates(
    logits: Float[Tensor, "n vocab"], prompts: Prompts
) -> tuple[Bool[Tensor, "n vocab"], Bool[Tensor, "n vocab"]]:
    """Masks of the answers and of the distractors."""
    answers = _membership(prompts.answers, logits)
    if prompts.distractors is None:
        return answers, ~answers
    return answers, _membership(prompts.distractors, logits)


def _precise(logits: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
    """In float32, or in float64 as they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _membership(tokens: Tensor, logits: Float[Tensor, "n vocab"]) -> Bool[Tensor, "n vocab"]:
    """The mask of tokens that are given as indices, `[n]` or `[n, k]`."""
    tokens = tokens.to(logits.device).reshape(len(logits), -1)
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, tokens, True)


def _log_sum_exp(
    logits: Float[Tensor, "n vocab"], members: Bool[Tensor, "n vocab"]
) -> Float[Tensor, " n"]:
    return logits.masked_fill(~members, -torch.inf).logsumexp(-1)
