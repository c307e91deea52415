"""Why AbsTopK finds its threshold by numpy's partition: times against the other exact ways.

Run `python tests/benchmarks/bench_abs_topk.py` with nothing else running. For a few shapes and
numbers of threads it shows the milliseconds of our mask and how many times as long others take.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sparse_lens.models.abs_topk import AbsTopK, abs_topk_mask

SHAPES = [(256, 1024), (2048, 256), (2048, 768), (128, 4096)]
FRACTIONS = [0.25, 0.0625]
REPEATS = 9


def topk_and_scatter(x: Tensor, k: int) -> Tensor:
    """What the released code does."""
    kept = x.abs().topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, kept, True)


def kthvalue(x: Tensor, k: int) -> Tensor:
    """A threshold from torch; keeps more than k among ties."""
    magnitude = x.abs()
    return magnitude >= magnitude.kthvalue(x.shape[-1] - k + 1, dim=-1, keepdim=True).values


def sorting(x: Tensor, k: int) -> Tensor:
    """The obvious way."""
    order = x.abs().argsort(dim=-1, descending=True)[..., :k]
    return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order, True)


def milliseconds(function: Callable[[], object]) -> float:
    """The best of some runs."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def compare_masks(x: Tensor, k: int) -> str:
    """One row of the first table."""
    ours = milliseconds(lambda: abs_topk_mask(x, k))
    others = (topk_and_scatter, kthvalue, sorting)
    ratios = [milliseconds(lambda other=other: other(x, k)) / ours for other in others]
    return f"{ours:9.2f}" + "".join(f"{ratio:16.1f}" for ratio in ratios)


def compare_gates(x: Tensor, k: int) -> str:
    """One row of the second table: forward and backward, given the mask."""
    mask, gradient = abs_topk_mask(x, k), torch.ones_like(x)
    x = x.clone().requires_grad_()
    ours = milliseconds(lambda: (x * mask).backward(gradient))
    where = milliseconds(lambda: torch.where(mask, x, 0).backward(gradient))
    whole = milliseconds(lambda: AbsTopK(k)(x).backward(gradient))
    return f"{ours:9.2f}{where / ours:16.1f}{whole:16.2f}"


def main() -> None:
    """Both tables."""
    found = torch.get_num_threads()
    tables = {
        "mask (ms), times as long: topk + scatter, kthvalue, sorting": compare_masks,
        "product with it (ms), times as long: torch.where; all of AbsTopK (ms)": compare_gates,
    }
    try:
        for title, row in tables.items():
            sys.stdout.write(f"\n{title}\n")
            for threads in (1, 2):
                torch.set_num_threads(threads)
                for rows, width in SHAPES:
                    for fraction in FRACTIONS:
                        x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
                        name = f"{threads} threads, {rows} x {width}, {fraction}"
                        sys.stdout.write(f"{name:32}{row(x, int(fraction * width))}\n")
    finally:
        torch.set_num_threads(found)


if __name__ == "__main__":
    main()
