"""Generation against a loop of full forward passes, one prompt at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.utilities.logits_utils import sample_logits

from sparse_lens.models.sampling import Sampling
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from tests.models.tiny_gpt import END, VARIANTS, some_tokens, sparse_gpt

VARIANT = pytest.mark.parametrize("variant", VARIANTS)
CACHE = pytest.mark.parametrize("use_past_kv_cache", [True, False])
TOKENIZER = pytest.mark.parametrize("tokenizer", [True, False])


def greedy_loop(model: HookedSparseGPT, prompt: list[int], n: int) -> list[int]:
    """The oracle: every prompt alone, in full, each time anew."""
    tokens = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)).long())
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


@VARIANT
@CACHE
@TOKENIZER
def test_greedy_tokens(variant: str, use_past_kv_cache: bool, tokenizer: bool) -> None:
    model = sparse_gpt(variant, tokenizer=tokenizer)
    prompts = some_tokens(4, 5)
    found = model.generate(
        prompts, 8, do_sample=False, stop_at_eos=False, use_past_kv_cache=use_past_kv_cache
    )
    assert found.tolist() == [greedy_loop(model, row, 8) for row in prompts.tolist()]


@VARIANT
@CACHE
@pytest.mark.parametrize("side", ["left", "right"])
def test_strings_of_different_lengths(variant: str, use_past_kv_cache: bool, side: Any) -> None:
    model = sparse_gpt(variant, tokenizer=True)
    assert model.tokenizer is not None
    model.tokenizer.padding_side = side
    texts = ["abc", "p", "gattaca", "<|endoftext|>hi"]
    found = model.generate(
        texts,
        5,
        do_sample=False,
        stop_at_eos=False,
        use_past_kv_cache=use_past_kv_cache,
        return_type="tokens",
    )
    for text, row in zip(texts, found.tolist(), strict=True):
        prompt = model.to_tokens(text)[0].tolist()
        padding = 7 - len(prompt)
        assert row[:padding] == [END] * padding
        assert row[padding:] == greedy_loop(model, prompt, 5)
    assert model.tokenizer.padding_side == side


@CACHE
def test_an_end_of_text_in_the_middle_is_a_token(use_past_kv_cache: bool) -> None:
    model = sparse_gpt("positions", tokenizer=True)
    prompt = [END, 3, END, 4, END]
    found = model.generate(
        torch.tensor(prompt), 4, do_sample=False, stop_at_eos=False,
        use_past_kv_cache=use_past_kv_cache,
    )  # fmt: skip
    assert found.tolist() == [greedy_loop(model, prompt, 4)]


@CACHE
def test_left_padded_tokens(use_past_kv_cache: bool) -> None:
    model = sparse_gpt("bigram", tokenizer=True)
    tokens = torch.tensor([[END, END, 3, 4], [1, 2, 3, 4]])
    found = model.generate(
        tokens, 4, do_sample=False, stop_at_eos=False, padding_side="left",
        use_past_kv_cache=use_past_kv_cache,
    )  # fmt: skip
    assert found[0, 2:].tolist() == greedy_loop(model, [3, 4], 4)
    assert found[1].tolist() == greedy_loop(model, [1, 2, 3, 4], 4)


def test_texts_come_back_as_stock_methods_give_them() -> None:
    model = sparse_gpt(tokenizer=True)
    options: dict[str, Any] = {"do_sample": False, "stop_at_eos": False}
    one = model.generate("abc", 4, **options)
    assert one == model.to_string(torch.tensor(greedy_loop(model, [0, 1, 2], 4)))
    assert model.generate(["abc"], 4, **options) == one
    assert model.generate(["abc", "abc"], 4, **options) == [one, one]
    tokens = model.to_tokens("abc")
    assert model.generate(tokens, 4, return_type="str", **options) == one
    assert model.generate(tokens.repeat(2, 1), 4, return_type="str", **options) == [one, one]
    assert isinstance(model.generate("abc", 4, return_type="tokens", **options), Tensor)


def test_prepending_end_of_text() -> None:
    model = sparse_gpt("sparse", tokenizer=True)
    options: dict[str, Any] = {"do_sample": False, "stop_at_eos": False, "return_type": "tokens"}
    found = model.generate("abc", 4, prepend_bos=True, **options)
    assert found.tolist() == [greedy_loop(model, [END, 0, 1, 2], 4)]
    assert model.generate("", 4, prepend_bos=True, **options).tolist() == [
        greedy_loop(model, [END], 4)
    ]


@CACHE
def test_rows_stop_each_at_its_own_time(use_past_kv_cache: bool) -> None:
    model = sparse_gpt("bigram", tokenizer=True)
    prompts = some_tokens(6, 3, seed=5)
    loops = [greedy_loop(model, row, 9) for row in prompts.tolist()]
    stops = [loops[0][5], loops[1][4]]
    expected = []
    for row in loops:
        ends = [i for i in range(3, 12) if row[i] in stops]
        expected.append(row[: ends[0] + 1] + [END] * (11 - ends[0]) if ends else row)
    longest = max(12 - row[::-1].index(next(t for t in row[::-1] if t != END)) for row in expected)
    found = model.generate(
        prompts, 9, eos_token_id=stops, do_sample=False, use_past_kv_cache=use_past_kv_cache
    )
    assert len({row.index(END) if END in row else 12 for row in expected}) > 1
    assert found.tolist() == [row[: max(longest, found.shape[1])] for row in expected]


def test_stopping_at_one_token_pads_with_it() -> None:
    model = sparse_gpt()
    prompts = some_tokens(5, 3)
    stop = greedy_loop(model, prompts[0].tolist(), 1)[-1]
    found = model.generate(prompts, 9, eos_token_id=stop, do_sample=False)
    assert found[0, 3:].tolist() == [stop] * (found.shape[1] - 3)
    with pytest.raises(ValueError, match="stop_at_eos needs a tokenizer"):
        model.generate(prompts, 2)
    with pytest.raises(ValueError, match="eos_token_id is empty"):
        model.generate(prompts, 2, eos_token_id=[])


def test_sampling_repeats_with_its_seed() -> None:
    model = sparse_gpt("sparse")
    prompts = some_tokens(3, 4)
    options: dict[str, Any] = {"stop_at_eos": False, "temperature": 2.0}

    def draw(seed: int, **more: Any) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(prompts, 8, generator=generator, **options, **more).tolist()

    state = torch.random.get_rng_state()
    assert draw(1) == draw(1) == draw(1, use_past_kv_cache=False)
    assert draw(1) != draw(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(3)
    first = model.generate(prompts, 8, **options)
    torch.manual_seed(3)
    assert torch.equal(model.generate(prompts, 8, **options), first)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_k": 1000},
        {"top_p": 0.7},
        {"top_p": 1.0},
        {"top_p": 0.01},
        {"freq_penalty": 1.5},
        {"temperature": 3.0, "top_k": 4, "freq_penalty": 0.5},
    ],
)
def test_sampling_draws_as_transformer_lens_does(options: dict[str, Any]) -> None:
    logits = torch.randn(50, 17, generator=torch.Generator().manual_seed(0)) * 2
    tokens = some_tokens(50, 9)
    torch.manual_seed(1)
    expected = sample_logits(logits.clone(), tokens=tokens, **options)
    generator = torch.Generator().manual_seed(1)
    sampling = Sampling(**options, generator=generator)
    assert torch.equal(sampling.draw(logits, tokens, torch.ones_like(tokens).bool()), expected)


def test_padding_does_not_count_as_an_occurrence() -> None:
    sampling = Sampling(freq_penalty=1e4)
    tokens, logits = torch.tensor([[1, 1, 0]]), torch.zeros(1, 2)
    real = torch.tensor([[False, False, True]])
    assert sampling.draw(logits, tokens, real).tolist() == [1]
    assert sampling.draw(logits, tokens, ~real).tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"top_p": 0.5, "top_k": 2}, "top_k or top_p, not both"),
    ],
)
def test_bad_sampling(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


@CACHE
def test_the_context_is_used_up_and_no_more(use_past_kv_cache: bool) -> None:
    model = sparse_gpt("positions")
    prompts = some_tokens(1, 5)
    options: dict[str, Any] = {
        "do_sample": False, "stop_at_eos": False, "use_past_kv_cache": use_past_kv_cache,
    }  # fmt: skip
    assert model.generate(prompts, 8, **options).shape == (1, 13)
    with pytest.raises(ValueError, match=r"5 tokens and max_new_tokens=9 exceed .* 12 tokens"):
        model.generate(prompts, 9, **options)


def test_what_there_is_no_starting_from() -> None:
    model = sparse_gpt(tokenizer=True)
    with pytest.raises(ValueError, match="no token to start from"):
        model.generate("")
    with pytest.raises(ValueError, match="no token to start from"):
        model.generate(["a", ""])
    with pytest.raises(ValueError, match="generating from text needs a tokenizer"):
        sparse_gpt().generate("a", eos_token_id=0)
    with pytest.raises(ValueError, match="return_type must be input, str or tokens"):
        model.generate("a", return_type="embeds")
    with pytest.raises(ValueError, match="return_type str needs a tokenizer"):
        sparse_gpt().generate(some_tokens(), 2, stop_at_eos=False, return_type="str")


def test_no_new_tokens() -> None:
    tokens = some_tokens()
    assert torch.equal(sparse_gpt().generate(tokens, 0, stop_at_eos=False), tokens)


def test_generated_tokens_can_be_trained_on() -> None:
    model = sparse_gpt()
    tokens = model.generate(some_tokens(), 2, stop_at_eos=False)
    model(tokens, return_type="loss").backward()


def test_hooks_act_on_generation() -> None:
    model = sparse_gpt("bigram")

    def favour(logits: Tensor, hook: Any) -> Tensor:
        return logits + 1e3 * torch.eye(17)[7]

    with model.hooks(fwd_hooks=[("unembed.hook_out", favour)]):
        found = model.generate(some_tokens(), 3, stop_at_eos=False, do_sample=False)
    assert bool((found[:, 7:] == 7).all())


@pytest.mark.parametrize("size", [1, 4, 8, 9, 100])
def test_a_stream_is_the_same_in_pieces(size: int) -> None:
    model = sparse_gpt("bigram")
    prompts = some_tokens(2, 5)
    options: dict[str, Any] = {"do_sample": False, "stop_at_eos": False}
    pieces = list(model.generate_stream(prompts, 7, max_tokens_per_yield=size, **options))
    assert torch.equal(torch.cat(pieces, 1), model.generate(prompts, 7, **options))
    # The first piece starts with the prompt, as that of the stock method.
    assert [piece.shape[1] for piece in pieces] == {
        1: [6, 1, 1, 1, 1, 1, 1], 4: [6, 4, 2], 8: [8, 4], 9: [9, 3], 100: [12],
    }[size]  # fmt: skip


def test_a_stream_leaves_defaults_alone_while_it_waits() -> None:
    model = sparse_gpt(tokenizer=True)
    stream = model.generate_stream("abc", 3, 1, prepend_bos=True, padding_side="left")
    next(stream)
    assert model.cfg.default_prepend_bos is False
    assert model.tokenizer is not None
    assert model.tokenizer.padding_side == "right"
    with pytest.raises(ValueError, match="a stream is of tokens"):
        model.generate_stream("abc", return_type="str")


def test_verbose_shows_progress(capsys: pytest.CaptureFixture[str]) -> None:
    model = sparse_gpt()
    model.generate(some_tokens(), 2, stop_at_eos=False)
    assert capsys.readouterr().err == ""
    model.generate(some_tokens(), 2, stop_at_eos=False, verbose=True)
    assert "2/2" in capsys.readouterr().err
