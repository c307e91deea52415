"""AbsTopK, the activation function that keeps the entries of largest magnitude."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_THREADS_OF_TOPK = 3
"""From so many threads on, torch's topk, which shares rows out among them, beats one partition."""


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
        # A product takes a third of the time of torch.where on a CPU, backward included.
        return x * abs_topk_mask(x, self.k)

    def extra_repr(self) -> str:
        return f"k={self.k}"


def abs_topk_mask(x: Float[Tensor, "*batch width"], k: int) -> Bool[Tensor, "*batch width"]:
    """Where the `k` entries of largest absolute value on the last axis are.

    All are, when there are no more than `k`. The mask has no gradient.
    """
    magnitude = x.detach().abs()
    if k >= x.shape[-1]:
        return torch.ones_like(magnitude, dtype=torch.bool)
    threshold = _threshold_by_partition(magnitude, k)
    if threshold is None:
        return _mask_by_topk(magnitude, k)
    mask = magnitude >= threshold
    # Entries that share the threshold are all in the mask, and NaNs are out: topk settles both.
    off = mask.sum(-1) != k
    if bool(off.any()):
        mask[off] = _mask_by_topk(magnitude[off], k)
    return mask


def _threshold_by_partition(magnitude: Tensor, k: int) -> Tensor | None:
    """The k-th largest entry of each row by numpy, or None where topk is faster or numpy cannot.

    On one thread numpy's partition takes a half to an eighth of the time of torch's topk; see
    tests/benchmarks/bench_abs_topk.py.
    """
    fast = magnitude.dtype in (torch.float32, torch.float64)
    if not fast or magnitude.device.type != "cpu" or type(magnitude) is not Tensor:
        return None
    if torch.compiler.is_compiling():  # a program must hold the computation, not this run's numbers
        return None
    if torch.get_num_threads() >= _THREADS_OF_TOPK:
        return None
    try:
        values = magnitude.numpy()
    except RuntimeError:  # inside a transform of torch.func the tensor has no memory of its own
        return None
    split = magnitude.shape[-1] - k
    return torch.from_numpy(np.partition(values, split, axis=-1)[..., split : split + 1])


def _mask_by_topk(magnitude: Tensor, k: int) -> Tensor:
    kept = magnitude.topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(magnitude, dtype=torch.bool).scatter(-1, kept, True)
