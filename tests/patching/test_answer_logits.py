"""Logits at answer positions are the model's, and the others are not computed."""

from dataclasses import replace

import pytest
import torch

from sparse_lens.patching import answer_logits
from sparse_lens.task import Prompts
from tests.models.tiny_gpt import VARIANTS, some_tokens, sparse_gpt

N, LENGTH = 3, 7
PROMPTS = Prompts(
    clean=some_tokens(N, LENGTH),
    corrupted=some_tokens(N, LENGTH, seed=1),
    answers=torch.zeros(N).long(),
    distractors=torch.ones(N).long(),
    positions=torch.tensor([6, 2, 4]),
)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_they_are_the_model_s(variant: str) -> None:
    model = sparse_gpt(variant)
    expected = model(PROMPTS.clean)[torch.arange(N), PROMPTS.answer_positions]
    assert (answer_logits(model, PROMPTS) - expected).abs().max() < 1e-12


def test_only_answers_are_unembedded_and_no_hook_stays() -> None:
    model = sparse_gpt("plain")
    seen: list[torch.Size] = []
    handle = model.unembed.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    answer_logits(model, PROMPTS)
    model(PROMPTS.clean)
    assert [shape[1] for shape in seen] == [1, LENGTH]
    handle.remove()
    with pytest.raises(IndexError):
        answer_logits(model, replace(PROMPTS, clean=PROMPTS.clean + 99))
    assert not model.unembed._forward_pre_hooks


def test_gradients_reach_the_stream() -> None:
    model = sparse_gpt("plain")
    answer_logits(model, PROMPTS).sum().backward()
    found = model.W_U.grad
    assert found is not None
    model.zero_grad()
    model(PROMPTS.clean)[torch.arange(N), PROMPTS.answer_positions].sum().backward()
    expected = model.W_U.grad
    assert expected is not None
    assert torch.allclose(found, expected)
