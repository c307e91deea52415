"""Losses against numpy, written out with probabilities."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_lens import objectives
from sparse_lens.objectives import (
    KLDivergence,
    NegatedLogitDifference,
    NegatedProbabilityDifference,
    Objective,
    TaskLoss,
    probability_difference,
)
from sparse_lens.patching import full_logits
from sparse_lens.task import Prompts
from tests import planted

N, VOCAB = 4, 9
LOGITS = 2 * torch.randn(N, VOCAB, generator=torch.Generator().manual_seed(0))
FULL = 2 * torch.randn(N, VOCAB, generator=torch.Generator().manual_seed(1))
ONE = torch.tensor([0, 1, 8, 3])
OTHER = torch.tensor([5, 0, 2, 4])
PAIR = torch.tensor([[0, 1], [1, 2], [8, 7], [3, 3]])  # a token that is named twice counts once
TRIPLE = torch.tensor([[2, 3, 4], [3, 4, 5], [0, 1, 2], [8, 7, 6]])
SETS = {
    "one against one": (ONE, OTHER),
    "a set against one": (PAIR, torch.tensor([6, 6, 6, 6])),
    "one against a set": (ONE, torch.tensor([[2, 3], [4, 5], [6, 7], [6, 7]])),
    "sets of different sizes": (PAIR, TRIPLE),
    "one against all others": (ONE, None),
    "a set against all others": (PAIR, None),
}
each_objective = pytest.mark.parametrize(
    "objective",
    [TaskLoss(), NegatedLogitDifference(), NegatedProbabilityDifference(), KLDivergence()],
)
each_set = pytest.mark.parametrize(("answers", "distractors"), SETS.values(), ids=SETS.keys())


def prompts(answers: Tensor, distractors: Tensor | None) -> Prompts:
    tokens = torch.zeros(N, 3, dtype=torch.long)
    return Prompts(clean=tokens, corrupted=tokens, answers=answers, distractors=distractors)


def masses(answers: Tensor, distractors: Tensor | None) -> list[tuple[float, float]]:
    """Total probability of the answers and of the distractors of each prompt, in float64."""
    found = []
    for row in range(N):
        exponentials = np.exp(LOGITS[row].double().numpy())
        probabilities = exponentials / exponentials.sum()
        right = {int(token) for token in answers[row].flatten()}
        wrong = set(range(VOCAB)) - right
        if distractors is not None:
            wrong = {int(token) for token in distractors[row].flatten()}
        found.append((sum(probabilities[list(right)]), sum(probabilities[list(wrong)])))
    return found


@each_set
def test_task_loss(answers: Tensor, distractors: Tensor | None) -> None:
    expected = [-np.log(a / (a + d)) for a, d in masses(answers, distractors)]
    got = TaskLoss()(LOGITS, prompts(answers, distractors))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@each_set
def test_negated_logit_difference(answers: Tensor, distractors: Tensor | None) -> None:
    expected = [np.log(d) - np.log(a) for a, d in masses(answers, distractors)]
    got = NegatedLogitDifference()(LOGITS, prompts(answers, distractors))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@each_set
def test_probability_difference(answers: Tensor, distractors: Tensor | None) -> None:
    expected = [a - d for a, d in masses(answers, distractors)]
    asked = prompts(answers, distractors)
    np.testing.assert_allclose(probability_difference(LOGITS, asked), expected, atol=1e-6)
    np.testing.assert_array_equal(
        NegatedProbabilityDifference()(LOGITS, asked), -probability_difference(LOGITS, asked)
    )


def test_two_tokens_are_a_difference_of_logits() -> None:
    rows = torch.arange(N)
    expected = LOGITS[rows, OTHER] - LOGITS[rows, ONE]
    torch.testing.assert_close(NegatedLogitDifference()(LOGITS, prompts(ONE, OTHER)), expected)


def test_one_against_all_others_is_cross_entropy() -> None:
    expected = torch.nn.functional.cross_entropy(LOGITS, ONE, reduction="none")
    torch.testing.assert_close(TaskLoss()(LOGITS, prompts(ONE, None)), expected)


def test_divergence_is_summed_over_the_vocabulary() -> None:
    p, q = (np.exp(x.double().numpy()) for x in (FULL, LOGITS))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = [sum(p[n, t] * np.log(p[n, t] / q[n, t]) for t in range(VOCAB)) for n in range(N)]
    got = KLDivergence()(LOGITS, prompts(ONE, OTHER), FULL)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_divergence_from_itself_is_zero() -> None:
    got = KLDivergence()(LOGITS, prompts(ONE, OTHER), LOGITS)
    np.testing.assert_allclose(got, np.zeros(N), atol=1e-6)


def test_divergence_needs_the_full_model() -> None:
    assert KLDivergence.needs_full_logits
    assert not TaskLoss.needs_full_logits
    with pytest.raises(ValueError, match="pass full_logits"):
        KLDivergence()(LOGITS, prompts(ONE, OTHER))


@each_objective
@each_set
def test_a_shift_of_all_logits_changes_nothing(
    answers: Tensor, distractors: Tensor | None, objective: Objective
) -> None:
    asked = prompts(answers, distractors)
    shifted = objective(LOGITS + torch.arange(N)[:, None], asked, FULL - 3)
    torch.testing.assert_close(shifted, objective(LOGITS, asked, FULL), rtol=1e-4, atol=1e-5)


@each_objective
@each_set
def test_gradients_are_those_of_finite_differences(
    answers: Tensor, distractors: Tensor | None, objective: Objective
) -> None:
    """In float32, since losses are computed in that precision whatever the logits'."""
    asked = prompts(answers, distractors)
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(logits, asked, FULL).sum(), logits)
    step = 1e-2
    for token in range(VOCAB):
        moved = torch.zeros(VOCAB).index_fill(0, torch.tensor([token]), step)
        ahead, behind = (objective(LOGITS + sign * moved, asked, FULL) for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        torch.testing.assert_close(gradient[:, token], slope, rtol=0, atol=2e-3)


def test_large_logits_stay_finite() -> None:
    logits = torch.zeros(N, VOCAB).index_fill(1, torch.tensor([5]), 1e4).requires_grad_()
    asked = prompts(torch.zeros(N, dtype=torch.long), torch.full((N,), 5))
    loss = TaskLoss()(logits, asked)
    assert loss.tolist() == [1e4] * N
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert bool(gradient.isfinite().all())


@each_objective
def test_half_precision_logits_give_losses_in_float32(objective: Objective) -> None:
    asked, half = prompts(ONE, OTHER), LOGITS.bfloat16()
    got = objective(half, asked, FULL.bfloat16())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, objective(half.float(), asked, FULL.bfloat16().float()))


def test_padding_does_not_reach_the_loss() -> None:
    """Whatever stands behind the last token of a prompt, the answer is read at that token."""
    clean, model = planted.task().train.clean[:N], planted.problems()["dense, channel, mean"].model
    lengths = torch.tensor([5, 2, 3, 4])
    losses = []
    for filler in (0, 7):
        padded = clean.masked_fill(torch.arange(5) >= lengths[:, None], filler)
        asked = Prompts(
            clean=padded, corrupted=padded, answers=ONE, distractors=OTHER, lengths=lengths
        )
        losses.append(TaskLoss()(full_logits(model, asked), asked))
    alone = [
        TaskLoss()(model(clean[row : row + 1, :length])[:, -1], prompts(ONE, OTHER)[row : row + 1])
        for row, length in enumerate(lengths.tolist())
    ]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], torch.cat(alone).detach())


@each_objective
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_losses_are_at_least_float32(
    objective: Objective, dtype: torch.dtype, expected: torch.dtype
) -> None:
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    clean = torch.zeros(2, 3, dtype=torch.long)
    answers = torch.tensor([1, 2])
    prompts = Prompts(clean=clean, corrupted=clean, answers=answers, distractors=answers + 1)
    assert objective(logits, prompts, logits.flip(0)).dtype == expected


def test_every_objective_has_a_name():
    defined = [
        value
        for value in vars(objectives).values()
        if isinstance(value, type) and issubclass(value, objectives.Objective)
    ]
    assert set(objectives.OBJECTIVES.values()) == set(defined) - {objectives.Objective}
