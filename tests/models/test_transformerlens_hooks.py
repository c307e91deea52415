"""TransformerLens's hook points and flags work on a sparse GPT, one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.components.attention import Attention

from sparse_lens.models.abs_topk import AbsTopK
from tests.models.tiny_gpt import VARIANTS, close, some_tokens, untyped_gpt

VARIANT = pytest.mark.parametrize("variant", VARIANTS)
FLAGS = ["use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in"]


def switch_on(model: Any, *flags: str) -> None:
    for flag in flags:
        getattr(model, f"set_{flag}")(True)


@VARIANT
def test_every_hook_point_fires_once_its_flag_is_set(variant: str) -> None:
    model = untyped_gpt(variant)
    fired: list[str] = []

    def note(value: Tensor, hook: Any) -> None:
        fired.append(hook.name)

    everything = [(lambda name: True, note)]
    model.run_with_hooks(some_tokens(), fwd_hooks=everything)
    silent = set(model.hook_dict) - set(fired)
    switched = {"hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in"}
    assert {name.rsplit(".", 1)[-1] for name in silent} == switched | {"hook_result"}
    switch_on(model, *FLAGS)
    model.run_with_hooks(some_tokens(), fwd_hooks=everything)
    assert set(fired) == set(model.hook_dict)


@VARIANT
def test_every_hook_point_acts_on_the_logits(variant: str) -> None:
    model = untyped_gpt(variant)
    switch_on(model, *FLAGS)
    logits = model(some_tokens())
    for name in model.hook_dict:
        changed = model.run_with_hooks(
            some_tokens(), fwd_hooks=[(name, lambda value, hook: value * 1.5 + 1)]
        )
        # A norm after it makes nothing of a factor; a softmax or AbsTopK little of a shift.
        assert not torch.equal(changed, logits), name


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("blocks.0.attn.hook_result", "use_attn_result"),
        ("blocks.1.hook_q_input", "use_split_qkv_input"),
        ("blocks.1.hook_attn_in", "use_attn_in"),
        ("blocks.0.hook_mlp_in", "use_hook_mlp_in"),
    ],
)
def test_a_hook_that_would_be_silent_is_refused(name: str, flag: str) -> None:
    model = untyped_gpt()
    with pytest.raises(ValueError, match=rf"{name} is silent; call model.set_{flag}\(True\)"):
        model.run_with_hooks(some_tokens(), fwd_hooks=[(name, lambda value, hook: value)])
    with pytest.raises(AssertionError, match=flag):
        model.add_hook(name, lambda value, hook: value)
    assert not any(point.fwd_hooks for point in model.hook_points())
    switch_on(model, flag)
    _, cache = model.run_with_cache(some_tokens(), names_filter=name)
    assert name in cache


@pytest.mark.parametrize("site", ["attn.hook_input", "mlp.hook_input"])
def test_our_inputs_need_no_flag(site: str) -> None:
    model = untyped_gpt("positions")
    model.add_hook(f"blocks.0.{site}", lambda value, hook: torch.zeros_like(value))
    assert not torch.equal(model(some_tokens()), untyped_gpt("positions")(some_tokens()))


def test_shapes_at_the_hook_points() -> None:
    model = untyped_gpt("positions", dtype=torch.float32)
    switch_on(model, "use_attn_result", "use_hook_mlp_in")
    _, cache = model.run_with_cache(some_tokens())
    assert {name: tuple(cache[f"blocks.1.{name}"].shape[2:]) for name in SHAPES} == SHAPES
    assert cache["hook_pos_embed"].shape == (3, 7, 6)


SHAPES = {
    "attn.hook_input": (22,),
    "attn.hook_q_pre": (3, 4),
    "attn.hook_k_pre": (3, 4),
    "attn.hook_v_pre": (3, 4),
    "attn.hook_q": (3, 4),
    "attn.hook_k": (3, 4),
    "attn.hook_v": (3, 4),
    "attn.hook_z": (3, 4),
    "attn.hook_result": (3, 16),
    "attn.hook_out_pre": (16,),
    "hook_attn_out": (16,),
    "hook_resid_mid": (16,),
    "hook_mlp_in": (16,),
    "mlp.hook_input": (22,),
    "mlp.hook_pre": (20,),
    "mlp.hook_post": (20,),
    "mlp.hook_out_pre": (16,),
    "hook_mlp_out": (16,),
    "ln1.hook_normalized": (16,),
    "ln_p1.hook_normalized": (6,),
    "ln_p2.hook_scale": (1,),
}


@pytest.mark.parametrize("name", ["attn.hook_attn_scores", "attn.hook_pattern"])
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@VARIANT
def test_attention_is_fused_until_somebody_listens(variant: str, direction: Any, name: str) -> None:
    model = untyped_gpt(variant)
    calls = dict.fromkeys(range(2), 0)
    for layer, block in enumerate(model.blocks):
        attn: Any = block.attn

        def counted(*args: Any, layer: int = layer, fused: Any = attn._fused_attention) -> Any:
            calls[layer] += 1
            return fused(*args)

        attn._fused_attention = counted
    alone = model(some_tokens())
    assert calls == {0: 1, 1: 1}
    heard: list[Tensor] = []
    with model.hooks(**{f"{direction}_hooks": [(f"blocks.1.{name}", _listen(heard))]}):
        heeded = model(some_tokens())
        heeded.sum().backward()
    assert calls == {0: 2, 1: 1}
    assert heard[0].shape == (3, 3, 7, 7)
    assert close(heeded, alone)
    model(some_tokens())
    assert calls == {0: 3, 1: 2}


def _listen(heard: list[Tensor]) -> Any:
    def hook(value: Tensor, hook: Any) -> None:
        heard.append(value)

    return hook


@pytest.mark.parametrize("name", ["hook_z", "hook_q", "hook_v_pre", "hook_out_pre", "hook_input"])
def test_attention_stays_fused_for_other_listeners(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = untyped_gpt("bigram")
    monkeypatch.setattr(Attention, "forward", lambda *args, **kwargs: pytest.fail("not fused"))
    heard: list[Tensor] = []
    model.run_with_hooks(some_tokens(), fwd_hooks=[(f"blocks.0.attn.{name}", _listen(heard))])
    assert heard


@VARIANT
def test_fused_and_explicit_attention_have_the_same_gradients(variant: str) -> None:
    gradients = []
    for listening in (False, True):
        model = untyped_gpt(variant)
        if listening:
            model.add_hook(lambda name: name.endswith("pattern"), lambda value, hook: None)
        model(some_tokens(), return_type="loss").backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert close(gradient, gradients[1][name]), name


def test_abs_topk_survives_reset_hooks() -> None:
    model = untyped_gpt("sparse")
    expected = model(some_tokens())
    model.add_hook("hook_embed", lambda value, hook: value * 0)
    model.reset_hooks(including_permanent=True)
    assert torch.equal(model(some_tokens()), expected)
    _, cache = model.run_with_cache(some_tokens())
    assert int((cache["blocks.0.mlp.hook_post"] != 0).sum(-1).max()) == 6
    assert sum(isinstance(module, AbsTopK) for module in model.modules()) == 16


@VARIANT
def test_backward_hooks_and_cached_gradients(variant: str) -> None:
    model = untyped_gpt(variant)
    loss, cache = model.run_with_cache(some_tokens(), return_type="loss", incl_bwd=True)
    assert loss.ndim == 0
    leaf = cache["blocks.1.hook_resid_post"].clone().requires_grad_()
    again = model(leaf, return_type="loss", start_at_layer=2, tokens=some_tokens())
    (expected,) = torch.autograd.grad(again, leaf)
    assert close(cache["blocks.1.hook_resid_post_grad"], expected)


@pytest.mark.parametrize("pos_slice", [2, -1, (1, 4), [0, 3]])
@pytest.mark.parametrize("remove_batch_dim", [False, True])
def test_cached_positions(pos_slice: Any, remove_batch_dim: bool) -> None:
    model = untyped_gpt("positions")
    switch_on(model, "use_split_qkv_input", "use_attn_result", "use_hook_mlp_in")
    tokens = some_tokens(1)
    _, whole = model.run_with_cache(tokens)
    _, some = model.run_with_cache(tokens, pos_slice=pos_slice, remove_batch_dim=remove_batch_dim)
    assert some.keys() == whole.keys()
    index = slice(*pos_slice) if isinstance(pos_slice, tuple) else pos_slice
    index = [index] if isinstance(index, int) else index  # the axis stays, as in stock caches
    for name, value in whole.items():
        queries = name.endswith(("scores", "pattern"))
        expected = value[:, :, index] if queries else value[:, index]
        assert torch.equal(some[name], expected[0] if remove_batch_dim else expected), name


@VARIANT
@pytest.mark.parametrize("flags", [[flag] for flag in FLAGS] + [FLAGS[1:3], FLAGS])
def test_flags_change_no_logits(variant: str, flags: list[str]) -> None:
    model = untyped_gpt(variant)
    expected = model(some_tokens())
    switch_on(model, *flags)
    assert close(model(some_tokens()), expected)
    for flag in flags:
        getattr(model, f"set_{flag}")(False)
    assert torch.equal(model(some_tokens()), expected)


@VARIANT
def test_split_inputs_reach_one_head_alone(variant: str) -> None:
    model = untyped_gpt(variant)
    _, before = model.run_with_cache(some_tokens())
    switch_on(model, "use_split_qkv_input")

    def edit(value: Tensor, hook: Any) -> Tensor:
        value[:, :, 1] = torch.randn(16, generator=torch.Generator().manual_seed(9)).to(value)
        return value

    with model.hooks(fwd_hooks=[("blocks.0.hook_k_input", edit)]):
        _, after = model.run_with_cache(some_tokens())
    same = before["k_pre", 0, "attn"] == after["k_pre", 0, "attn"]
    assert not bool(same[:, :, 1].any())
    assert close(after["k_pre", 0, "attn"][:, :, [0, 2]], before["k_pre", 0, "attn"][:, :, [0, 2]])
    assert close(after["q", 0], before["q", 0])
    assert close(after["v", 0], before["v", 0])
