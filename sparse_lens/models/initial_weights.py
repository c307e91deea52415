"""Random weights to start training from, and which parameters training leaves alone."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.models.config import SparseGPTConfig

INIT_STD = 0.02
_PROJECTION_BIASES = ("b_Q", "b_K", "b_V", "b_O", "b_in", "b_out")


def absent_parameters(model: HookedTransformer, cfg: SparseGPTConfig) -> list[str]:
    """Biases of TransformerLens's modules that the architecture lacks; they stay at zero."""
    absent = []
    for name, _ in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        no_projection_bias = leaf in _PROJECTION_BIASES and not cfg.bias
        no_norm_bias = leaf == "b" and not cfg.ln_bias
        if no_projection_bias or no_norm_bias:
            absent.append(name)
    return absent


def freeze_absent_parameters(model: HookedTransformer, cfg: SparseGPTConfig) -> None:
    """Exclude parameters from training that the architecture lacks or does not train."""
    fixed = [*absent_parameters(model, cfg), "unembed.b_U"]
    if cfg.sinusoidal_cat_pos_emb:
        fixed.append("pos_embed.W_pos")
    if cfg.enable_bigram_table and not cfg.learnable_bigram_table:
        fixed.append("bigram_table")
    for name in fixed:
        model.get_parameter(name).requires_grad_(False)


@torch.no_grad()
def draw_weights(model: HookedTransformer, cfg: SparseGPTConfig, seed: int) -> None:
    """Initialise as the released models' training code does, from one seed on any device.

    Matrices are normal with std 0.02, those that write to the stream 0.02 / sqrt(2 n_layer); gains
    are one, biases, sinks and the bigram table zero.
    """
    generator = torch.Generator().manual_seed(seed)
    into_stream = INIT_STD / (2 * cfg.n_layer) ** 0.5
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf.startswith("W_"):
            std = into_stream if leaf in ("W_O", "W_out") else INIT_STD
            parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
        else:
            parameter.fill_(1.0 if leaf == "w" else 0.0)
    if cfg.sinusoidal_cat_pos_emb:
        model.pos_embed.W_pos.copy_(sinusoidal_positions(*model.pos_embed.W_pos.shape))
    if cfg.tied_unembed:
        model.unembed.W_U.copy_(model.embed.W_E.T)


def sinusoidal_positions(n_positions: int, width: int) -> Float[Tensor, "n_positions width"]:
    """Fixed sinusoids: sines, then cosines, of log-spaced periods from 4 to `n_positions` tokens.

    With an odd width the last channel is zero.
    """
    half = max(1, width // 2)
    shortest, longest = torch.tensor([4.0, max(4.0, n_positions)]).log10().tolist()
    periods = torch.logspace(shortest, longest, half)
    angles = torch.arange(n_positions)[:, None] * (2 * torch.pi / periods)
    table = torch.zeros(n_positions, max(width, 2 * half))
    table[:, :half], table[:, half : 2 * half] = angles.sin(), angles.cos()
    return table[:, :width]
