"""What TransformerLens offers works on a sparse GPT, hook by hook and flag by flag."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.components.attention import Attention
from transformer_lens.HookedTransformer import Output
from transformer_lens.utilities.lm_utils import lm_cross_entropy_loss

from sparse_lens.models.abs_topk import AbsTopK
from tests.models import tiny_gpt
from tests.models.tiny_gpt import END, VARIANTS, some_tokens

VARIANT = pytest.mark.parametrize("variant", VARIANTS)
FLAGS = ["use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in"]


def sparse_gpt(variant: str = "plain", **options: Any) -> Any:
    """Untyped: no function is a hook by TransformerLens's annotations."""
    return tiny_gpt.sparse_gpt(variant, **options)


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding, in float64."""
    return found.shape == expected.shape and bool((found - expected).abs().max() < 1e-10)


# Hooks


def switch_on(model: Any, *flags: str) -> None:
    for flag in flags:
        getattr(model, f"set_{flag}")(True)


@VARIANT
def test_every_hook_point_fires_once_its_flag_is_set(variant: str) -> None:
    model = sparse_gpt(variant)
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
    model = sparse_gpt(variant)
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
    model = sparse_gpt()
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
    model = sparse_gpt("positions")
    model.add_hook(f"blocks.0.{site}", lambda value, hook: torch.zeros_like(value))
    assert not torch.equal(model(some_tokens()), sparse_gpt("positions")(some_tokens()))


def test_shapes_at_the_hook_points() -> None:
    model = sparse_gpt("positions", dtype=torch.float32)
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
    model = sparse_gpt(variant)
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
    model = sparse_gpt("bigram")
    monkeypatch.setattr(Attention, "forward", lambda *args, **kwargs: pytest.fail("not fused"))
    heard: list[Tensor] = []
    model.run_with_hooks(some_tokens(), fwd_hooks=[(f"blocks.0.attn.{name}", _listen(heard))])
    assert heard


@VARIANT
def test_fused_and_explicit_attention_have_the_same_gradients(variant: str) -> None:
    gradients = []
    for listening in (False, True):
        model = sparse_gpt(variant)
        if listening:
            model.add_hook(lambda name: name.endswith("pattern"), lambda value, hook: None)
        model(some_tokens(), return_type="loss").backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert close(gradient, gradients[1][name]), name


def test_abs_topk_survives_reset_hooks() -> None:
    model = sparse_gpt("sparse")
    expected = model(some_tokens())
    model.add_hook("hook_embed", lambda value, hook: value * 0)
    model.reset_hooks(including_permanent=True)
    assert torch.equal(model(some_tokens()), expected)
    _, cache = model.run_with_cache(some_tokens())
    assert int((cache["blocks.0.mlp.hook_post"] != 0).sum(-1).max()) == 6
    assert sum(isinstance(module, AbsTopK) for module in model.modules()) == 16


@VARIANT
def test_backward_hooks_and_cached_gradients(variant: str) -> None:
    model = sparse_gpt(variant)
    loss, cache = model.run_with_cache(some_tokens(), return_type="loss", incl_bwd=True)
    assert loss.ndim == 0
    leaf = cache["blocks.1.hook_resid_post"].clone().requires_grad_()
    again = model(leaf, return_type="loss", start_at_layer=2, tokens=some_tokens())
    (expected,) = torch.autograd.grad(again, leaf)
    assert close(cache["blocks.1.hook_resid_post_grad"], expected)


@pytest.mark.parametrize("pos_slice", [2, -1, (1, 4), [0, 3]])
@pytest.mark.parametrize("remove_batch_dim", [False, True])
def test_cached_positions(pos_slice: Any, remove_batch_dim: bool) -> None:
    model = sparse_gpt("positions")
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


# Flags


@VARIANT
@pytest.mark.parametrize("flags", [[flag] for flag in FLAGS] + [FLAGS[1:3], FLAGS])
def test_flags_change_no_logits(variant: str, flags: list[str]) -> None:
    model = sparse_gpt(variant)
    expected = model(some_tokens())
    switch_on(model, *flags)
    assert close(model(some_tokens()), expected)
    for flag in flags:
        getattr(model, f"set_{flag}")(False)
    assert torch.equal(model(some_tokens()), expected)


@VARIANT
def test_split_inputs_reach_one_head_alone(variant: str) -> None:
    model = sparse_gpt(variant)
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


# Forms of input and output


@VARIANT
def test_return_types(variant: str) -> None:
    model = sparse_gpt(variant)
    tokens = some_tokens()
    logits = model(tokens)
    per_token = lm_cross_entropy_loss(logits, tokens, per_token=True)
    both = model(tokens, return_type="both")
    assert isinstance(both, Output)
    assert torch.equal(both.logits, logits)
    assert torch.equal(both.loss, model(tokens, return_type="loss"))
    assert close(both.loss, per_token.mean())
    assert close(model(tokens, return_type="loss", loss_per_token=True), per_token)
    assert model(tokens, return_type=None) is None
    with pytest.raises(ValueError, match="return_type must be"):
        model(tokens, return_type="logit")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_forms_of_tokens(dtype: torch.dtype) -> None:
    model = sparse_gpt("bigram", tokenizer=True)
    tokens = some_tokens(1)
    expected = model(tokens)
    assert torch.equal(model(tokens[0]), expected)
    assert torch.equal(model(tokens.to(dtype)), expected)
    text = model.to_string(tokens[0])
    assert torch.equal(model(text), expected)
    assert torch.equal(model([text]), expected)
    assert model.cfg.default_prepend_bos is False
    assert torch.equal(model.to_tokens(text), tokens)
    assert model.to_tokens(text, prepend_bos=True)[0, 0] == END
    assert model.to_str_tokens(text) == list(text)
    assert model.get_token_position(text[2], text) == text.index(text[2])


@VARIANT
def test_nothing_to_run_on(variant: str) -> None:
    model = sparse_gpt(variant, tokenizer=True)
    assert model("").shape == (1, 0, 17)
    assert model(some_tokens()[:0]).shape == (0, 7, 17)
    assert model.run_with_cache(some_tokens()[:0])[1]["mlp_out", 1].shape == (0, 7, 16)


@pytest.mark.parametrize(
    ("input", "message"),
    [
        (torch.zeros(2, 3), "expected tokens, integers"),
        (torch.zeros(2, 3, dtype=torch.bool), "expected tokens, integers"),
        (torch.zeros(2, 3, 4, dtype=torch.long), "expected tokens, integers"),
        (torch.zeros(1, 13, dtype=torch.long), "13 tokens exceed the model's context of 12"),
        ("abc", "has no tokenizer"),
    ],
)
def test_bad_inputs(input: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sparse_gpt()(input)


@VARIANT
@pytest.mark.parametrize("prepend_bos", [False, True])
def test_left_padding_of_strings(variant: str, prepend_bos: bool) -> None:
    model = sparse_gpt(variant, tokenizer=True)
    texts = ["abc", "gattaca", "p"]
    length = 7 + prepend_bos
    options: dict[str, Any] = {"prepend_bos": prepend_bos, "padding_side": "left"}
    both = model(texts, return_type="both", **options)
    per_token = model(texts, return_type="loss", loss_per_token=True, **options)
    kept, total = 0, 0.0
    for i, text in enumerate(texts):
        n = len(text) + prepend_bos
        alone = model(text, return_type="both", prepend_bos=prepend_bos)
        assert close(both.logits[i, length - n :], alone.logits[0])
        assert bool((per_token[i, : length - n] == 0).all())
        if n > 1:
            kept, total = kept + n - 1, total + alone.loss.item() * (n - 1)
    assert abs(both.loss.item() - total / kept) < 1e-10
    assert model.tokenizer is not None
    assert model.tokenizer.padding_side == "right"
    assert model.cfg.default_prepend_bos is False


def test_right_padding_of_strings() -> None:
    model = sparse_gpt("bigram", tokenizer=True)
    logits = model(["abc", "gattaca"])
    assert close(logits[0, :3], model("abc")[0])


@VARIANT
def test_stop_and_start(variant: str) -> None:
    model = sparse_gpt(variant)
    tokens = some_tokens()
    expected, cache = model.run_with_cache(tokens)
    embedded = model(tokens, stop_at_layer=0)
    middle = model(tokens, stop_at_layer=1)
    assert torch.equal(embedded, cache["resid_pre", 0])
    assert close(middle, cache["resid_pre", 1])
    assert close(model(tokens, stop_at_layer=-1), middle)
    positions = None if model.sparse_cfg.d_pos_emb is None else cache["hook_pos_embed"]
    for given in (None, positions):
        options: dict[str, Any] = {"tokens": tokens, "shortformer_pos_embed": given}
        assert close(model(embedded, start_at_layer=0, **options), expected)
        assert close(model(middle, start_at_layer=1, **options), expected)
        assert close(model(middle, start_at_layer=-1, **options), expected)
        assert close(
            model(embedded, start_at_layer=0, stop_at_layer=1, shortformer_pos_embed=given), middle
        )
    loss = model(middle, return_type="loss", start_at_layer=1, tokens=tokens)
    assert close(loss, model(tokens, return_type="loss"))


def test_starting_needs_its_tokens() -> None:
    model = sparse_gpt("bigram")
    stream = model(some_tokens(), stop_at_layer=1)
    with pytest.raises(ValueError, match=r"pass tokens=.*bigram table"):
        model(stream, start_at_layer=1)
    with pytest.raises(ValueError, match=r"pass tokens=.*a loss needs them"):
        sparse_gpt()(stream, start_at_layer=1, return_type="loss")
    with pytest.raises(ValueError, match="needs a stream"):
        model(some_tokens(), start_at_layer=1)
    assert model(stream, start_at_layer=1, return_type=None) is None


@VARIANT
@pytest.mark.parametrize("tokenizer", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_key_value_cache_fed_in_parts(variant: str, tokenizer: bool, side: Any) -> None:
    model = sparse_gpt(variant, tokenizer=tokenizer)
    if model.tokenizer is not None:
        model.tokenizer.padding_side = side
    tokens = some_tokens(3, 8)
    tokens[:, 4:6] = END  # not padding: it comes after other tokens
    expected = model(tokens, return_type="both", attention_mask=torch.ones_like(tokens))
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 3)
    parts = [
        model(part, past_kv_cache=cache, return_type="both")
        for part in tokens.split([4, 1, 1, 2], 1)
    ]
    assert close(torch.cat([part.logits for part in parts], 1), expected.logits)
    assert torch.isfinite(parts[-1].loss)
