"""What a circuit does not run on is refused by name."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation
from sparse_lens.circuit import Circuit
from sparse_lens.patching import run_circuit
from sparse_lens.task import Task
from tests import planted

PROBLEM = "dense, component, mean"


def run(tokens: Any) -> torch.Tensor:
    problem = planted.problems()[PROBLEM]
    circuit = Circuit.full(problem.graph)
    return run_circuit(problem.model, circuit, tokens, ablation=InterchangeAblation())


@pytest.mark.parametrize("name", ["clean", "corrupted", "answers", "distractors"])
def test_tokens_that_a_model_lacks(name: str) -> None:
    prompts = planted.task().train
    size = planted.problems()[PROBLEM].model.cfg.d_vocab
    run(prompts)
    changed = getattr(prompts, name).clone()
    changed.view(-1)[-1] = size
    with pytest.raises(ValueError, match=f"{name} has the token {size}, .* ends at {size - 1}"):
        run(replace(prompts, **{name: changed}))


def test_prompts_that_are_longer_than_the_context() -> None:
    prompts = planted.task().train
    n_ctx = planted.problems()[PROBLEM].model.cfg.n_ctx
    longer = torch.zeros(len(prompts), n_ctx + 1, dtype=torch.long)
    with pytest.raises(ValueError, match=f"have {n_ctx + 1} tokens, the model's context {n_ctx}"):
        run(replace(prompts, clean=longer, corrupted=longer))


@pytest.mark.parametrize("what", ["text", Task("mine", train=planted.task().train)])
def test_what_is_neither_tokens_nor_prompts(what: Any) -> None:
    with pytest.raises(ValueError, match=f"or on Prompts, got {type(what).__name__}"):
        run(what)
