"""Token-by-token generation through the full forward pass, with or without a key-value cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.utilities.defaults_utils import USE_DEFAULT_VALUE, LocallyOverridenDefaults
from transformer_lens.utilities.tokenize_utils import get_attention_mask

from sparse_lens.models.sampling import GREEDY, Sampling, Stop, stop_at


class GeneratingHookedTransformer(HookedTransformer):
    """A HookedTransformer that generates what its forward pass predicts.

    The stock methods skip the tokens (and so a bigram table) and, with a key-value cache and no
    tokenizer, number positions wrongly; these give the same with and without a cache.
    """

    def generate(  # type: ignore[override]
        self,
        input: str | list[str] | Int[Tensor, "*batch pos"] = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | Sequence[int] | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = USE_DEFAULT_VALUE,
        padding_side: Literal["left", "right"] | None = USE_DEFAULT_VALUE,
        return_type: str | None = "input",
        verbose: bool = False,
        generator: torch.Generator | None = None,
    ) -> Any:
        """The input with its continuation, as `HookedTransformer.generate`.

        Strings of different lengths are padded on the left; `padding_side` says where tokens that
        are given are padded, if on the left. `generator` is the source of randomness.

        Raises:
            ValueError: when the context is too short, there is nothing to start from, or no token
                to stop at.
        """
        if return_type not in ("input", "str", "tokens"):
            raise ValueError(f"return_type must be input, str or tokens, got {return_type!r}.")
        if return_type == "input":
            return_type = "tokens" if isinstance(input, Tensor) else "str"
        pieces = self.generate_stream(
            input,
            max_new_tokens,
            stop_at_eos=stop_at_eos,
            eos_token_id=eos_token_id,
            do_sample=do_sample,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            freq_penalty=freq_penalty,
            use_past_kv_cache=use_past_kv_cache,
            prepend_bos=prepend_bos,
            padding_side=padding_side,
            verbose=verbose,
            generator=generator,
        )
        tokens = torch.cat(list(pieces), 1)
        if return_type == "tokens":
            return tokens
        if self.tokenizer is None:
            raise ValueError("return_type str needs a tokenizer; ask for tokens.")
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
        return texts[0] if len(texts) == 1 else texts

    def generate_stream(  # type: ignore[override]
        self,
        input: str | list[str] | Int[Tensor, "*batch pos"] = "",
        max_new_tokens: int = 10,
        max_tokens_per_yield: int = 25,
        stop_at_eos: bool = True,
        eos_token_id: int | Sequence[int] | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = USE_DEFAULT_VALUE,
        padding_side: Literal["left", "right"] | None = USE_DEFAULT_VALUE,
        return_type: str | None = "input",
        verbose: bool = False,
        generator: torch.Generator | None = None,
    ) -> Iterator[Int[Tensor, "batch piece"]]:
        """The tokens of :meth:`generate` in pieces, during generation; the first holds the input.

        A piece is yielded when it has `max_tokens_per_yield` tokens or more a row.
        """
        if return_type not in ("input", "tensor", "tokens"):
            raise ValueError(
                f"a stream is of tokens, got return_type {return_type!r}; decode the pieces with "
                "to_string."
            )
        sampling = Sampling(temperature, top_k, top_p, freq_penalty, generator)
        with LocallyOverridenDefaults(self, prepend_bos=prepend_bos, padding_side=padding_side):
            start = start_from(self, input)
        new_tokens = next_tokens(
            self,
            start,
            max_new_tokens=max_new_tokens,
            stop=stop_at(self.tokenizer, eos_token_id) if stop_at_eos else None,
            sampling=sampling if do_sample else GREEDY,
            use_past_kv_cache=use_past_kv_cache,
            verbose=verbose,
        )
        return _in_pieces(start.tokens, new_tokens, max_tokens_per_yield)


def _in_pieces(
    start: Int[Tensor, "batch pos"], new_tokens: Iterator[Int[Tensor, "batch 1"]], size: int
) -> Iterator[Int[Tensor, "batch piece"]]:
    piece = start
    for column in new_tokens:
        piece = torch.cat([piece, column], 1)
        if piece.shape[1] >= size:
            yield piece
            piece = piece[:, :0]
    if piece.shape[1]:
        yield piece


@dataclass(frozen=True)
class Start:
    """The tokens that are continued."""

    tokens: Int[Tensor, "batch pos"]

    real: Bool[Tensor, "batch pos"]
    """False on padding."""


def start_from(model: HookedTransformer, input: str | list[str] | Tensor) -> Start:
    """The tokens to continue; strings of different lengths are padded on the left.

    In tokens that are given, padding is what the model's forward pass would mask as padding.

    Raises:
        ValueError: when there is no token to start from, or text but no tokenizer.
    """
    if isinstance(input, Tensor):
        start = _start_from_tokens(model, input)
    else:
        start = _start_from_text(model, [input] if isinstance(input, str) else input)
    if not bool(start.real.any(1).all()):
        raise ValueError("there is no token to start from; pass prepend_bos=True or some text.")
    return start


def _start_from_tokens(model: HookedTransformer, tokens: Tensor) -> Start:
    if tokens.ndim not in (1, 2) or tokens.is_floating_point():
        raise ValueError(
            f"generation goes on from tokens [batch, pos], got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}; a bigram table needs the tokens, not their embeddings."
        )
    tokens = torch.atleast_2d(tokens).to(model.cfg.device).long()
    real = torch.ones_like(tokens, dtype=torch.bool)
    if model.tokenizer is not None and model.tokenizer.padding_side == "left":
        bos = bool(model.cfg.default_prepend_bos)
        real = get_attention_mask(model.tokenizer, tokens, bos).bool()
    return Start(tokens, real)


def _start_from_text(model: HookedTransformer, texts: list[str]) -> Start:
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        raise ValueError("generating from text needs a tokenizer; pass tokens [batch, pos].")
    # One by one, as in a padded batch an end-of-text at the start looks like padding.
    rows = [model.to_tokens(text)[0].long() for text in texts]
    longest = max((len(row) for row in rows), default=0)
    tokens = torch.full((len(rows), longest), tokenizer.pad_token_id)
    real = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, longest - len(row) :] = row
        real[i, longest - len(row) :] = True
    return Start(tokens.to(model.cfg.device), real.to(model.cfg.device))


@torch.no_grad()
def next_tokens(
    model: HookedTransformer,
    start: Start,
    *,
    max_new_tokens: int,
    stop: Stop | None,
    sampling: Sampling,
    use_past_kv_cache: bool,
    verbose: bool,
) -> Iterator[Int[Tensor, "batch 1"]]:
    """The next token of every row, one after the other until all rows have ended.

    Raises:
        ValueError: when the model's context is too short.
    """
    tokens, real = start.tokens, start.real
    if tokens.shape[1] + max_new_tokens - 1 > model.cfg.n_ctx:
        raise ValueError(
            f"{tokens.shape[1]} tokens and max_new_tokens={max_new_tokens} exceed the model's "
            f"context of {model.cfg.n_ctx} tokens; shorten one of them."
        )
    cache = None
    if use_past_kv_cache:
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, len(tokens))
    # Without a mask, a model whose tokenizer pads on the left infers one from the tokens.
    pads_left = model.tokenizer is not None and model.tokenizer.padding_side == "left"
    needs_mask = cache is not None or pads_left or not bool(real.all())
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    positions = slice(None)  # those of the next forward pass
    for _ in tqdm(range(max_new_tokens), disable=not verbose):
        mask = real[:, positions].long() if needs_mask else None
        logits = model(tokens[:, positions], attention_mask=mask, past_kv_cache=cache)[:, -1]
        drawn = sampling.draw(logits, tokens, real).to(tokens.device)  # [batch]
        if stop is not None:
            drawn = torch.where(ended, stop.padding, drawn)
            ended |= torch.isin(drawn, torch.tensor(stop.tokens, device=tokens.device))
        new = drawn[:, None]  # [batch, 1]
        yield new
        if stop is not None and bool(ended.all()):
            return
        tokens = torch.cat([tokens, new], 1)
        real = torch.cat([real, torch.ones_like(new, dtype=torch.bool)], 1)
        if cache is not None:
            positions = slice(-1, None)
