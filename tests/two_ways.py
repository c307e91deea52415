"""A model that does its task in two ways that share nothing, written by hand into its weights.

The last token is a bit, which the embedding writes to the channels LEFT and RIGHT. For each of the
two, one neuron fires at 1 and one at -1, and what they write to a channel of their own alone
decides the answer.
"""

from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.task import Prompts, Task

LEFT, RIGHT, OUT_LEFT, OUT_RIGHT = range(4)
VOCAB = 10
ZERO, ONE = 8, 9
"""The answers. Tokens below 4 are zeros, those from 4 to 7 are ones."""


@torch.no_grad()
def model() -> HookedTransformer:
    """The model, without norms."""
    cfg = HookedTransformerConfig(
        n_layers=1, n_heads=1, d_head=2, d_model=4, d_mlp=4, d_vocab=VOCAB, n_ctx=3,
        act_fn="relu", normalization_type=None, device="cpu", seed=0,
    )  # fmt: skip
    model: Any = HookedTransformer(cfg)
    for parameter in model.parameters():
        parameter.zero_()
    for token in range(8):
        model.embed.W_E[token, [LEFT, RIGHT]] = 1.0 if token >= 4 else -1.0
    mlp = model.blocks[0].mlp
    for source, target, neurons in ((LEFT, OUT_LEFT, (0, 1)), (RIGHT, OUT_RIGHT, (2, 3))):
        for neuron, sign in zip(neurons, (1.0, -1.0), strict=True):
            mlp.W_in[source, neuron] = sign
            mlp.W_out[neuron, target] = 4.0 * sign
        model.unembed.W_U[target, ONE], model.unembed.W_U[target, ZERO] = 1.0, -1.0
    return model


def task() -> Task:
    """Which bit is the last token?"""
    return Task("bit", *(_prompts(seed) for seed in range(3)))


def _prompts(seed: int) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(8, (32, 3), generator=generator)
    corrupted = clean.clone()
    corrupted[:, -1] = (clean[:, -1] + 4) % 8
    is_one = clean[:, -1] >= 4
    return Prompts(
        clean=clean,
        corrupted=corrupted,
        answers=torch.where(is_one, ONE, ZERO),
        distractors=torch.where(is_one, ZERO, ONE),
    )
