"""The cost of a discovery: forward and backward passes, seconds, memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformer_lens import HookedTransformer

from sparse_lens.patching import counted


@dataclass(frozen=True)
class Cost:
    """What a discovery cost."""

    forward_passes: int = 0
    """Forward passes of a batch, of the full model or a circuit."""

    backward_passes: int = 0

    seconds: float = 0.0

    peak_memory: int | None = None
    """Bytes on a CUDA device; None on other devices."""


class CostMeter:
    """Counts passes and measures time while a method runs.

    The fields are counters, to which methods add passes that `metered` cannot see.
    """

    def __init__(self, device: torch.device | str | None) -> None:
        self.forward_passes = 0
        self.backward_passes = 0
        self._device = torch.device(device or "cpu")
        self._started = time.perf_counter()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def cost(self) -> Cost:
        """The cost so far."""
        peak = None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            peak = torch.cuda.max_memory_allocated(self._device)
        seconds = time.perf_counter() - self._started
        return Cost(self.forward_passes, self.backward_passes, seconds, peak)


@contextmanager
def metered(model: HookedTransformer) -> Iterator[CostMeter]:
    """Count every forward pass of a model inside the context."""
    meter = CostMeter(model.cfg.device)

    def count() -> None:
        meter.forward_passes += 1

    with counted(model, count):
        yield meter
