"""What one may give a sparse GPT and ask of it, as of any model of TransformerLens."""

from typing import Any

import pytest
import torch
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.HookedTransformer import Output
from transformer_lens.utilities.lm_utils import lm_cross_entropy_loss

from tests.models.tiny_gpt import END, VARIANTS, close, some_tokens, untyped_gpt

VARIANT = pytest.mark.parametrize("variant", VARIANTS)


@VARIANT
def test_return_types(variant: str) -> None:
    model = untyped_gpt(variant)
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
    model = untyped_gpt("bigram", tokenizer=True)
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
    model = untyped_gpt(variant, tokenizer=True)
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
        untyped_gpt()(input)


@VARIANT
@pytest.mark.parametrize("prepend_bos", [False, True])
def test_left_padding_of_strings(variant: str, prepend_bos: bool) -> None:
    model = untyped_gpt(variant, tokenizer=True)
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
    model = untyped_gpt("bigram", tokenizer=True)
    logits = model(["abc", "gattaca"])
    assert close(logits[0, :3], model("abc")[0])


@VARIANT
def test_stop_and_start(variant: str) -> None:
    model = untyped_gpt(variant)
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
    model = untyped_gpt("bigram")
    stream = model(some_tokens(), stop_at_layer=1)
    with pytest.raises(ValueError, match=r"pass tokens=.*bigram table"):
        model(stream, start_at_layer=1)
    with pytest.raises(ValueError, match=r"pass tokens=.*a loss needs them"):
        untyped_gpt()(stream, start_at_layer=1, return_type="loss")
    with pytest.raises(ValueError, match="needs a stream"):
        model(some_tokens(), start_at_layer=1)
    assert model(stream, start_at_layer=1, return_type=None) is None


@VARIANT
@pytest.mark.parametrize("tokenizer", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_key_value_cache_fed_in_parts(variant: str, tokenizer: bool, side: Any) -> None:
    model = untyped_gpt(variant, tokenizer=tokenizer)
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
