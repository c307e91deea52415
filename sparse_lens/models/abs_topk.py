"""AbsTopK, the activation function that keeps the entries of largest magnitude."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class AbsTopK(nn.Module):
    """Keep the `k` entries of largest absolute value on the last axis and zero the rest.

    Gao et al. 2025 (2511.13653), section 2. Exactly `k` entries are kept also among ties; the
    gradient passes through the kept entries alone.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"AbsTopK must keep at least one entry, got k={k}; raise afrac.")
        self.k = k

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        if self.k >= x.shape[-1]:
            return x
        return _Keep.apply(x, abs_topk_mask(x.detach(), self.k))  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f"k={self.k}"


def abs_topk_mask(x: Float[Tensor, "*batch width"], k: int) -> Bool[Tensor, "*batch width"]:
    """Where the `k` entries of largest absolute value on the last axis are."""
    magnitude = x.abs()
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return _mask_by_topk(magnitude, k)
    # numpy's partition is about twice as fast as torch's topk on a CPU, but it gives a threshold:
    # rows in which several entries share it are settled by topk.
    split = x.shape[-1] - k
    threshold = np.partition(magnitude.numpy(), split, axis=-1)[..., split : split + 1]
    mask = magnitude >= torch.from_numpy(threshold)
    if int(mask.sum()) != k * (x.numel() // x.shape[-1]):
        tied = mask.sum(-1) != k
        mask[tied] = _mask_by_topk(magnitude[tied], k)
    return mask


def _mask_by_topk(magnitude: Tensor, k: int) -> Tensor:
    kept = magnitude.topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(magnitude, dtype=torch.bool).scatter_(-1, kept, True)


class _Keep(torch.autograd.Function):
    """Multiplication with a mask that saves only the mask (a byte an entry) for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return torch.where(mask, x, 0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return torch.where(mask, grad_outputs[0], 0), None
