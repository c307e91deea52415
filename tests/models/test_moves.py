"""A sparse GPT moved, copied, saved and trained as any module."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from transformer_lens import HookedTransformer

from sparse_lens.models.sparse_gpt import HookedSparseGPT
from tests.models.tiny_gpt import VARIANTS, some_tokens, sparse_gpt

VARIANT = pytest.mark.parametrize("variant", VARIANTS)


@VARIANT
def test_gradients_reach_every_parameter_that_is_trained(variant: str) -> None:
    model = sparse_gpt(variant)
    model(some_tokens(), return_type="loss").backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize(
    ("move", "dtype"),
    [
        (lambda m: m.to(torch.bfloat16), torch.bfloat16),
        (lambda m: m.to("cpu", torch.bfloat16), torch.bfloat16),
        (lambda m: m.to("cpu", dtype=torch.bfloat16), torch.bfloat16),
        (lambda m: m.to(device="cpu", dtype=torch.float16, non_blocking=True), torch.float16),
        (lambda m: m.to(torch.zeros(1, dtype=torch.float16)), torch.float16),
        (lambda m: m.to("cpu"), torch.float64),
        (lambda m: m.to(torch.device("cpu"), print_details=False), torch.float64),
        (lambda m: m.cpu(), torch.float64),
        (lambda m: m.bfloat16(), torch.bfloat16),
        (lambda m: m.half(), torch.float16),
        (lambda m: m.float(), torch.float32),
        (lambda m: m.float().double(), torch.float64),
        (lambda m: m.type(torch.float32), torch.float32),
        (lambda m: nn.Sequential(m).to(torch.float32)[0], torch.float32),
    ],
)
def test_moves_in_every_spelling(move: Any, dtype: torch.dtype, capsys: Any) -> None:
    model = move(sparse_gpt("bigram"))
    assert isinstance(model, HookedSparseGPT)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert (model.cfg.dtype, model.cfg.device) == (dtype, "cpu")
    assert all(block.attn.cfg is model.cfg for block in model.blocks)
    logits = model(some_tokens())
    assert logits.dtype == dtype
    assert bool(logits.isfinite().all())
    _, cache = model.run_with_cache(some_tokens())
    assert cache["z", 1].dtype == dtype
    assert model.generate(some_tokens(), 3, stop_at_eos=False).shape == (3, 10)
    assert capsys.readouterr().out == ""


def test_moves_that_make_no_sense() -> None:
    model = sparse_gpt()
    with pytest.raises(TypeError, match="only accepts floating point"):
        model.to(torch.int64)
    assert model.cfg.dtype == torch.float64


def test_another_device() -> None:
    model = sparse_gpt("bigram", dtype=torch.float32).to("meta")
    assert model.cfg.device == "meta"
    assert model(some_tokens()).device.type == "meta"


def test_lower_precision_predicts_much_the_same() -> None:
    model = sparse_gpt()
    tokens = some_tokens(8, 12)
    expected = model(tokens).log_softmax(-1)
    found = model.bfloat16()(tokens).double().log_softmax(-1)
    divergence = (expected.exp() * (expected - found)).sum(-1).mean()
    assert 0 < divergence.item() < 0.01


@VARIANT
def test_state_dict_round_trip(variant: str) -> None:
    model, other = sparse_gpt(variant), sparse_gpt(variant, seed=1)
    assert not torch.equal(other(some_tokens()), model(some_tokens()))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(some_tokens()), model(some_tokens()))
    with pytest.raises(RuntimeError, match="size mismatch"):
        sparse_gpt(variant, d_mlp=21).load_state_dict(model.state_dict())


@VARIANT
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies(variant: str, how: str) -> None:
    model: Any = sparse_gpt(variant, tokenizer=True)
    model.reference_tokens = some_tokens()
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    assert torch.equal(other(some_tokens()), model(some_tokens()))
    assert torch.equal(other.reference_tokens, model.reference_tokens)
    assert other.to_tokens("abc").tolist() == [[0, 1, 2]]
    other.set_use_split_qkv_input(True)
    assert "blocks.0.hook_q_input" in other.run_with_cache(some_tokens())[1]
    with torch.no_grad():
        other.W_E.mul_(2)
    assert not torch.equal(other(some_tokens()), model(some_tokens()))
    assert not model.cfg.use_split_qkv_input


def test_it_is_a_hooked_transformer() -> None:
    model = sparse_gpt()
    assert isinstance(model, HookedTransformer)
    assert model.W_Q.shape == (2, 3, 16, 4)
    assert model.W_E.shape == (17, 16)
    assert model.all_head_labels()[-1] == "L1H2"
    assert model.cfg.n_params == sum(
        p.numel() for n, p in model.blocks.named_parameters() if ".W_" in n
    )
    wide: Any = sparse_gpt("positions")
    assert wide.W_in.shape == (2, 22, 20)
    assert wide.W_pos.shape == (12, 6)
    assert torch.equal(wide.OV[0, 1].AB, wide.W_V[0, 1] @ wide.W_O[0, 1])
    assert wide.QK.shape == (2, 3, 22, 22)
    assert wide.cfg.n_params == sum(
        p.numel() for n, p in wide.blocks.named_parameters() if ".W_" in n
    )
