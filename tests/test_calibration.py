"""Scale and shift against a slow search over a grid."""

import pytest
import torch
from torch import Tensor

from sparse_lens.calibration import Calibration, fit_calibration
from sparse_lens.objectives import TaskLoss
from sparse_lens.task import Prompts

N, VOCAB = 200, 6
SMALL, LARGE = 1, 4


def prompts(answers: Tensor) -> Prompts:
    """Two-way prompts between the tokens SMALL and LARGE."""
    tokens = torch.zeros(len(answers), 2, dtype=torch.long)
    return Prompts(
        clean=tokens, corrupted=tokens, answers=answers, distractors=SMALL + LARGE - answers
    )


def example(scale: float, shift: float, seed: int = 0) -> tuple[Tensor, Prompts]:
    """Logits of a model whose best calibration is about the given one.

    The answers are drawn with the odds that the calibrated logits speak of.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(N, VOCAB, generator=generator)
    odds = scale * (logits[:, SMALL] - logits[:, LARGE]) + shift
    small = torch.rand(N, generator=generator) < odds.sigmoid()
    return logits, prompts(torch.where(small, SMALL, LARGE))


def grid_search(logits: Tensor, asked: Prompts) -> tuple[float, float, float]:
    """Scale, shift and mean loss of the best point, each grid finer and around the last one's."""
    difference = (logits[:, SMALL] - logits[:, LARGE]).double()
    is_small = asked.answers == SMALL
    best, width = (0.0, 0.0, torch.inf), 8.0
    for _ in range(8):
        around = best
        for i in range(-5, 6):
            for j in range(-5, 6):
                scale, shift = around[0] + width * i / 5, around[1] + width * j / 5
                small = (scale * difference + shift).sigmoid()
                loss = -float(torch.where(is_small, small, 1 - small).log().mean())
                best = min(best, (scale, shift, loss), key=lambda point: point[2])
        width /= 4
    return best


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (3, 1), (0.2, -2), (-1, 0.5)])
def test_fit_is_the_best_of_a_grid(scale: float, shift: float) -> None:
    logits, asked = example(scale, shift)
    found = fit_calibration(logits, asked)
    best_scale, best_shift, loss = grid_search(logits, asked)
    assert found.scale == pytest.approx(best_scale, abs=2e-2)
    assert found.shift == pytest.approx(best_shift, abs=2e-2)
    assert float(found.loss(logits, asked).mean()) <= loss + 1e-5
    assert loss < float(TaskLoss()(logits, asked).mean())


def test_a_positive_shift_favours_the_smaller_token() -> None:
    logits = torch.zeros(2, VOCAB)
    small, large = (
        Calibration(1.0, 2.0).loss(logits, prompts(torch.tensor([SMALL, LARGE]))).tolist()
    )
    assert small == pytest.approx(0.126928)  # -log sigmoid(2)
    assert large == pytest.approx(2.126928)


def test_the_shift_undoes_a_bias_towards_one_token() -> None:
    logits, asked = example(1.5, 0.3)
    fair = fit_calibration(logits, asked)
    biased = logits + 2 * torch.nn.functional.one_hot(torch.tensor(LARGE), VOCAB)
    found = fit_calibration(biased, asked)
    assert found.scale == pytest.approx(fair.scale, abs=1e-2)
    assert found.shift == pytest.approx(fair.shift + 2 * fair.scale, abs=2e-2)


def test_without_scale_and_shift_it_is_the_task_loss() -> None:
    logits, asked = example(1, 0)
    torch.testing.assert_close(Calibration().loss(logits, asked), TaskLoss()(logits, asked))


def test_other_tokens_and_common_shifts_do_not_matter() -> None:
    logits, asked = example(2, -1)
    other = logits + torch.randn(N, 1, generator=torch.Generator().manual_seed(3))
    other[:, 0] += 5
    found, expected = fit_calibration(other, asked), fit_calibration(logits, asked)
    assert found.scale == pytest.approx(expected.scale, abs=1e-3)
    assert found.shift == pytest.approx(expected.shift, abs=1e-3)


def test_a_fit_needs_no_gradients_around_it_and_leaves_none() -> None:
    logits, asked = example(2, -1)
    logits.requires_grad_()
    with torch.no_grad():
        found = fit_calibration(logits, asked)
    assert found == fit_calibration(logits, asked)
    assert logits.grad is None


def test_logits_that_are_always_right_give_a_finite_fit() -> None:
    """The loss falls for ever with the scale; the number of steps ends the search."""
    logits, asked = example(1, 0)
    rows = torch.arange(N)
    logits[rows, asked.answers] = logits[rows, SMALL + LARGE - asked.answers] + 1
    found = fit_calibration(logits, asked)
    assert float(found.loss(logits, asked).mean()) < float(TaskLoss()(logits, asked).mean())
    assert bool(torch.tensor([found.scale, found.shift]).isfinite().all())


@pytest.mark.parametrize("sets", ["no distractors", "sets of answers", "sets of distractors"])
def test_more_than_two_tokens_are_refused(sets: str) -> None:
    tokens, answers = torch.zeros(2, 3, dtype=torch.long), torch.tensor([1, 2])
    pairs = torch.tensor([[3, 4], [3, 4]])
    asked = Prompts(
        clean=tokens,
        corrupted=tokens,
        answers=pairs if sets == "sets of answers" else answers,
        distractors={"no distractors": None, "sets of answers": answers}.get(sets, pairs),
    )
    with pytest.raises(ValueError, match="one answer and one distractor per prompt"):
        fit_calibration(torch.zeros(2, VOCAB), asked)
    with pytest.raises(ValueError, match="one answer and one distractor per prompt"):
        Calibration().loss(torch.zeros(2, VOCAB), asked)
