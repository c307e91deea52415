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
        self._earlier_peak = 0
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def cost(self) -> Cost:
        """The cost so far."""
        peak = self._peak_memory()
        seconds = time.perf_counter() - self._started
        return Cost(self.forward_passes, self.backward_passes, seconds, peak)

    def keep_peak(self) -> None:
        """Remember the peak so far, which the start of another meter makes the device forget."""
        self._earlier_peak = self._peak_memory() or 0

    def _peak_memory(self) -> int | None:
        if self._device.type != "cuda":
            return None
        torch.cuda.synchronize(self._device)
        return max(self._earlier_peak, torch.cuda.max_memory_allocated(self._device))


_RUNNING: list[CostMeter] = []
"""The meters of contexts that have not ended; like the peak of a device, the process has one."""


@contextmanager
def metered(model: HookedTransformer) -> Iterator[CostMeter]:
    """Count every forward pass of a model inside the context; contexts may be nested."""
    for outer in _RUNNING:
        outer.keep_peak()
    meter = CostMeter(model.cfg.device)

    def count() -> None:
        meter.forward_passes += 1

    _RUNNING.append(meter)
    try:
        with counted(model, count):
            yield meter
    finally:
        _RUNNING.remove(meter)
