"""Memory that is used again, and work in chunks that need little of it."""

from collections.abc import Iterator

import torch
from torch import Tensor

_MOST_ON_ACCELERATORS = 2**26


class Scratch:
    """Tensors by name, each overwritten when it is next asked for.

    Pages that are fresh from the system cost more than what they are filled with.

    Args:
        like: has their device and dtype.
    """

    def __init__(self, like: Tensor) -> None:
        self._empty = like.new_empty(0)
        self._by_name: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Whatever it held before."""
        size = torch.Size(shape).numel()
        memory = self._by_name.get(name)
        if memory is None or memory.numel() < size:
            memory = self._by_name[name] = self._empty.new_empty(size)
        return memory[:size].view(shape)


def chunks(n: int, *, elements: int, device: torch.device, most_on_cpu: int) -> Iterator[slice]:
    """Slices of `n` items, in order, with as many items each as fit into some numbers.

    Args:
        elements: numbers that an item takes.
        most_on_cpu: numbers that a chunk may take on a CPU; elsewhere these are 2**26.
    """
    most = most_on_cpu if device.type == "cpu" else _MOST_ON_ACCELERATORS
    step = max(1, most // elements)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
