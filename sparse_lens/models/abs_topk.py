"""AbsTopK, the activation function that keeps the entries of largest magnitude."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_THREADS_OF_TOPK = 3
"""With this many threads or more, torch's parallel topk is faster than one partition."""


class AbsTopK(nn.Module):
    """Keep the `k` entries of largest absolute value on the last axis and zero the rest.

    Gao et al. 2025 (2511.13653), section 2. Exactly `k` entries are kept also among ties (which of
    the tied ones is unspecified); the gradient passes through the kept entries alone. NaN counts as
    larger than every number, so it is never hidden.

    Raises:
        ValueError: when `k` is below one.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"AbsTopK must keep at least one entry, got k={k}; raise afrac.")
        self.k = k

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        if self.k >= x.shape[-1]:
            return x
        # On a CPU a product takes a third of the time of torch.where, backward included, and one
        # with bytes a third of that: bools are turned into numbers one by one.
        return x * abs_topk_mask(x, self.k).view(torch.uint8)

    def extra_repr(self) -> str:
        return f"k={self.k}"


def abs_topk_mask(x: Float[Tensor, "*batch width"], k: int) -> Bool[Tensor, "*batch width"]:
    """A mask of the `k` entries of largest absolute value on the last axis.

    It is true everywhere when there are no more than `k` entries, and has no gradient.
    """
    magnitude = x.detach().abs()
    if k >= x.shape[-1]:
        return torch.ones_like(magnitude, dtype=torch.bool)
    mask = _mask_by_partition(magnitude, k)
    if mask is None:
        return _mask_by_topk(magnitude, k)
    # The mask has all entries that equal the threshold; where these are too many, topk decides.
    has_ties = mask.view(torch.uint8).sum(-1, dtype=torch.int32) != k  # [*batch]
    if bool(has_ties.any()):
        mask[has_ties] = _mask_by_topk(magnitude[has_ties], k)
    return mask


def _mask_by_partition(magnitude: Tensor, k: int) -> Tensor | None:
    """A mask of entries not below their row's k-th largest; None where topk is to be used.

    On one thread numpy's partition takes a half to an eighth of the time of torch's topk (see
    tests/benchmarks/bench_abs_topk.py), and its comparison a third of that of torch's.
    """
    fast = magnitude.dtype in (torch.float32, torch.float64)
    if not fast or magnitude.device.type != "cpu" or type(magnitude) is not Tensor:
        return None
    if torch.compiler.is_compiling():  # numpy's result would become a constant of the program
        return None
    if torch.get_num_threads() >= _THREADS_OF_TOPK:
        return None
    try:
        values = magnitude.numpy()
    except RuntimeError:  # inside a transform of torch.func the tensor has no memory of its own
        return None
    n_dropped = magnitude.shape[-1] - k
    # The bits of magnitudes, read as integers, are in the same order, with NaNs as the largest.
    values = values.view(f"i{values.itemsize}")
    threshold = np.partition(values, n_dropped, axis=-1)[..., n_dropped : n_dropped + 1]
    return torch.from_numpy(values >= threshold)


def _mask_by_topk(magnitude: Tensor, k: int) -> Tensor:
    kept = magnitude.topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(magnitude, dtype=torch.bool).scatter(-1, kept, True)
