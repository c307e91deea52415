"""The projection that makes pretraining weight-sparse: keep the largest entries of each matrix."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.training.config import TrainingConfig
from sparse_lens.training.schedule import nonzero_fraction


@dataclass(frozen=True)
class SparseParameter:
    """A parameter that is kept sparse."""

    name: str
    parameter: torch.nn.Parameter
    fraction: float
    """Fraction of nonzero entries at the end of annealing."""

    channel_dims: tuple[int, ...] = ()
    """Dimensions that enumerate neurons or attention channels, for the minimum per channel."""


def sparse_parameters(model: HookedSparseGPT, cfg: TrainingConfig) -> list[SparseParameter]:
    """The parameters that training keeps sparse, by the options of the config."""
    return [
        SparseParameter(name, parameter, fraction, channels)
        for name, parameter, fraction, channels in _candidates(model, cfg)
        if fraction is not None and parameter.requires_grad
    ]


def _candidates(
    model: HookedSparseGPT, cfg: TrainingConfig
) -> Iterator[tuple[str, torch.nn.Parameter, float | None, tuple[int, ...]]]:
    channels = {"W_Q": (0, 2), "W_K": (0, 2), "W_V": (0, 2), "W_O": (0, 1), "W_in": (1,)}
    channels["W_out"] = (0,)
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf in channels:
            yield name, parameter, cfg.weight_fraction, channels[leaf]
        elif leaf in ("W_E", "W_U", "W_pos"):
            yield name, parameter, cfg.embedding_fraction, ()
        elif leaf.startswith("b"):
            yield name, parameter, cfg.bias_fraction, ()


@torch.no_grad()
def project(parameters: list[SparseParameter], cfg: TrainingConfig, step: int) -> None:
    """Keep the largest entries of each parameter, as many as the schedule says after `step`."""
    for sparse in parameters:
        fraction = nonzero_fraction(cfg, step, sparse.fraction)
        if fraction < 1:
            weight = sparse.parameter
            keep = max(1, round(fraction * weight.numel()))
            minimum = cfg.min_nonzeros if sparse.channel_dims else 0
            mask = largest_entries(weight, keep, sparse.channel_dims, minimum)
            weight.mul_(mask)


def largest_entries(
    weight: Tensor, keep: int, channel_dims: tuple[int, ...] = (), minimum: int = 0
) -> Bool[Tensor, "*shape"]:
    """Mask of the `keep` entries of largest magnitude.

    Where `minimum` is given, the `minimum` largest of every channel (an index into
    `channel_dims`) are kept first and count towards `keep`.
    """
    magnitude = weight.detach().abs()
    if minimum:
        inner_dims = tuple(d for d in range(weight.ndim) if d not in channel_dims)
        dims = (*channel_dims, *inner_dims)
        by_channel = magnitude.permute(dims).flatten(len(channel_dims))  # [*channel, inner]
        largest = by_channel.topk(min(minimum, by_channel.shape[-1]), dim=-1).indices
        forced = torch.zeros_like(by_channel, dtype=torch.bool).scatter_(-1, largest, True)
        forced = forced.reshape([weight.shape[d] for d in dims])
        forced = forced.permute(torch.tensor(dims).argsort().tolist())  # as weight
        # Forced entries rank before all others and, among themselves, by magnitude.
        magnitude = torch.where(forced, magnitude + magnitude.max() + 1, magnitude)
        keep = max(keep, int(forced.sum()))
    return _top_entries(magnitude, keep)


def _top_entries(magnitude: Tensor, keep: int) -> Tensor:
    """A mask of exactly `keep` entries; of equal ones on a CPU the first in memory order."""
    flat = magnitude.flatten()
    if keep >= flat.numel():
        return torch.ones_like(magnitude, dtype=torch.bool)
    if flat.device.type != "cpu":  # topk needs no synchronisation with the device
        kept = flat.topk(keep, sorted=False).indices
        mask = torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, kept, True)
        return mask.reshape(magnitude.shape)
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()  # numpy has no bfloat16
    n_dropped = flat.numel() - keep
    # On a CPU numpy's partition is several times faster than topk.
    threshold = float(np.partition(flat.numpy(), n_dropped)[n_dropped])
    mask = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    mask[ties[: keep - int(mask.sum())]] = True
    return mask.reshape(magnitude.shape)
