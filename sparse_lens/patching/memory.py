"""Buffers that are reused, and chunks that bound the memory of intermediate tensors."""

from collections.abc import Iterator

import torch
from torch import Tensor

_MAX_ELEMENTS_ON_ACCELERATORS = 2**26


class Scratch:
    """Uninitialised tensors by name, whose memory is reused by the next call with the same name.

    On a CPU, touching newly allocated pages can take longer than computing what fills them.

    Args:
        like: a tensor of the same device and dtype.
    """

    def __init__(self, like: Tensor) -> None:
        self._empty = like.new_empty(0)
        self._by_name: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of this shape, with arbitrary content."""
        size = torch.Size(shape).numel()
        buffer = self._by_name.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._by_name[name] = self._empty.new_empty(size)
        return buffer[:size].view(shape)


def chunks(n: int, *, elements: int, device: torch.device, most_on_cpu: int) -> Iterator[slice]:
    """Slices of `n` items, in order, with as many items each as the limit on elements allows.

    Args:
        elements: number of tensor elements per item.
        most_on_cpu: the limit on elements per chunk on a CPU; on other devices it is 2**26.
    """
    most = most_on_cpu if device.type == "cpu" else _MAX_ELEMENTS_ON_ACCELERATORS
    step = max(1, most // elements)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
