"""Token-by-token generation through the full forward pass, with or without a key-value cache."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.utils import USE_DEFAULT_VALUE, get_attention_mask, sample_logits


def generate_tokens(
    model: HookedTransformer,
    input: str | list[str] | Int[Tensor, "batch pos"],
    *,
    max_new_tokens: int,
    stop_tokens: Sequence[int],
    sampling: dict[str, Any] | None,
    use_past_kv_cache: bool,
    prepend_bos: bool | None = USE_DEFAULT_VALUE,
    verbose: bool = False,
) -> Int[Tensor, "batch longer"]:
    """The input tokens with their continuations.

    Several strings of different lengths are padded on the left. `sampling` holds the options of
    TransformerLens's `sample_logits`; None takes the most likely token.
    """
    tokens, mask = _prompt(model, input, prepend_bos)
    n_prompt = tokens.shape[1]
    if n_prompt + max_new_tokens > model.cfg.n_ctx:
        raise ValueError(
            f"{n_prompt} prompt tokens and max_new_tokens={max_new_tokens} exceed the model's "
            f"context of {model.cfg.n_ctx} tokens; shorten one of them."
        )
    cache = None
    if use_past_kv_cache:
        cache = TransformerLensKeyValueCache.init_cache(
            model.cfg, model.cfg.device, tokens.shape[0]
        )
    finished = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    new, new_mask = tokens, mask
    for _ in tqdm(range(max_new_tokens), disable=not verbose):
        fed, fed_mask = (new, new_mask) if cache is not None else (tokens, mask)
        logits = model(fed, attention_mask=fed_mask, past_kv_cache=cache)[:, -1]
        if sampling is None:
            chosen = logits.argmax(-1)
        else:
            chosen = sample_logits(logits, tokens=tokens, **sampling)
        if stop_tokens:
            chosen = torch.where(finished, stop_tokens[0], chosen)
            finished |= torch.isin(chosen, torch.tensor(stop_tokens, device=tokens.device))
        new = chosen[:, None].to(tokens)
        new_mask = torch.ones_like(new)
        tokens, mask = torch.cat([tokens, new], 1), torch.cat([mask, new_mask], 1)
        if stop_tokens and bool(finished.all()):
            break
    return tokens


def _prompt(
    model: HookedTransformer, input: str | list[str] | Tensor, prepend_bos: bool | None
) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask (0 on padding) to start from."""
    if isinstance(input, Tensor):
        tokens = (input if input.ndim == 2 else input[None]).to(model.cfg.device)
        return tokens, torch.ones_like(tokens)
    if model.tokenizer is None:
        raise ValueError("generating from text needs a tokenizer; pass tokens [batch, pos].")
    tokens = model.to_tokens(input, prepend_bos=prepend_bos, padding_side="left")
    if isinstance(input, str) or len(input) == 1:
        return tokens, torch.ones_like(tokens)
    previous = model.tokenizer.padding_side
    try:
        model.tokenizer.padding_side = "left"
        bos = model.cfg.default_prepend_bos if prepend_bos is USE_DEFAULT_VALUE else prepend_bos
        return tokens, get_attention_mask(model.tokenizer, tokens, bool(bos))
    finally:
        model.tokenizer.padding_side = previous
