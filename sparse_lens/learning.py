"""What methods that learn gates have in common: the learning rate's course, the prompts' order."""

import torch
from jaxtyping import Int
from torch import Tensor


def share_of_peak(step: int, n_steps: int, warmup_fraction: float) -> float:
    """The learning rate as a share of its peak: a linear rise, then a linear fall to 0."""
    warmup = max(1, round(warmup_fraction * n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return (n_steps - step) / max(1, n_steps - warmup)


class PromptOrder:
    """Batches of rows without end: all prompts in a new order each epoch.

    What is left of an epoch when it does not fill a batch is not used.

    Args:
        n: prompts there are.
        batch_size: rows a batch, or all where there are fewer.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator) -> None:
        self._n, self._size, self._generator = n, min(batch_size, n), generator
        self.queue: Int[Tensor, " rows"] = torch.zeros(0, dtype=torch.long)
        """Rows of this epoch that are still to come; with the generator, the state."""

    def next(self) -> Int[Tensor, " batch"]:
        """The rows of the next batch."""
        if len(self.queue) < self._size:
            self.queue = torch.randperm(self._n, generator=self._generator)
        rows, self.queue = self.queue[: self._size], self.queue[self._size :]
        return rows
