"""Tiny sparse GPTs for tests, with every parameter at random, and a tokenizer of single letters."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.released_weights import load_released_state_dict
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.models.tokenizer import make_tokenizer
from tests.models.reference_gpt import random_weights

EVERYWHERE = "attn_in,attn_q,attn_k,attn_v,attn_out,mlp_in,mlp_neuron,mlp_out"
LETTERS = "abcdefghijklmnop"
END = 16

BASE: dict[str, Any] = {
    "block_size": 12,
    "vocab_size": 17,
    "n_layer": 2,
    "n_head": 3,
    "d_head": 4,
    "d_model": 16,
    "d_mlp": 20,
    "rms_norm": True,
    "tied_unembed": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"rms_norm": False},
    "sparse": {"afrac": 0.3, "afrac_loctypes": EVERYWHERE},
    "bigram": {"afrac": 0.3, "enable_bigram_table": True, "sink": True},
    "positions": {"afrac": 0.3, "d_pos_emb": 6, "enable_bigram_table": True},
    "as wide": {"d_pos_emb": 16, "rms_norm": False},
    "stream": {
        "afrac": 0.5,
        "afrac_loctypes": "resid_post_attn,resid_post_mlp,mlp_neuron",
        "residual_activation_type": "relu",
        "activation_type": "relu",
    },
}


def sparse_gpt(
    variant: str = "plain",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    tokenizer: bool = False,
    **changes: Any,
) -> HookedSparseGPT:
    """A model in float64, so that no AbsTopK is decided by rounding."""
    config = BASE | VARIANTS[variant] | changes
    model = HookedSparseGPT(
        SparseGPTConfig.from_dict(config),
        dtype=dtype,
        device="cpu",
        tokenizer=letters() if tokenizer else None,
        seed=None,
    )
    load_released_state_dict(model, random_weights(config, seed, torch.float64))
    return model.eval()


def letters() -> PreTrainedTokenizerFast:
    """One token a letter, and end-of-text, which also pads."""
    return make_tokenizer({letter: i for i, letter in enumerate(LETTERS)}, [])


def some_tokens(n: int = 3, pos: int = 7, seed: int = 0) -> torch.Tensor:
    """Random tokens without end-of-text."""
    return torch.randint(16, (n, pos), generator=torch.Generator().manual_seed(seed))


def untyped_gpt(variant: str = "plain", **options: Any) -> Any:
    """A `sparse_gpt`, untyped: no function is a hook by TransformerLens's annotations."""
    return sparse_gpt(variant, **options)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for rounding, in float64."""
    return found.shape == expected.shape and bool((found - expected).abs().max() < 1e-10)
