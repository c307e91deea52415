"""A circuit that is run again and again on the same prompts, changed a little each time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.removal.kept import Kept
from sparse_lens.patching.removal.lazy import Steps
from sparse_lens.patching.removal.sparse_gpt import SparseGPTPass, can_run
from sparse_lens.patching.run import circuit_logits
from sparse_lens.task import Prompts


class CircuitRuns(ABC):
    """Runs of circuits on some prompts; those that differ little from a base may be cheap."""

    uncounted_passes: int = 0
    """Passes so far through parts of the model, which a cost meter does not see."""

    @abstractmethod
    def logits(self, kept: Kept) -> Float[Tensor, "n vocab"]:
        """Logits at the answer positions of the model run as a circuit."""

    @abstractmethod
    def rebase(self, kept: Kept) -> None:
        """Let a circuit be the base of the next ones."""


def circuit_runs(
    bound: BoundAblation, prompts: Prompts, *, freeze_norm_scales: bool = False
) -> CircuitRuns:
    """The fastest runs that there are for a model and its graph.

    Args:
        freeze_norm_scales: norms divide by what they divide by in the full model.
    """
    if not freeze_norm_scales and can_run(bound, prompts):
        return StepwiseRuns(bound, prompts)
    return WholeRuns(bound, prompts, freeze_norm_scales=freeze_norm_scales)


class WholeRuns(CircuitRuns):
    """Whole passes through the hooked model, whatever it is."""

    def __init__(
        self, bound: BoundAblation, prompts: Prompts, *, freeze_norm_scales: bool = False
    ) -> None:
        self._bound, self._prompts = bound.fixed(prompts), prompts
        self._freeze_norm_scales = freeze_norm_scales

    def logits(self, kept: Kept) -> Float[Tensor, "n vocab"]:
        return circuit_logits(
            self._bound,
            kept.circuit(),
            self._prompts,
            freeze_norm_scales=self._freeze_norm_scales,
        )

    def rebase(self, kept: Kept) -> None:
        """Whole passes have no base."""


class StepwiseRuns(CircuitRuns):
    """Passes through a sparse GPT that compute only what differs from the base.

    What comes before the first change is the base's, and only the answer position is computed of
    what acts through it alone. The values of all prompts at all nodes are held in memory.
    """

    def __init__(self, bound: BoundAblation, prompts: Prompts) -> None:
        self._pass = SparseGPTPass(bound.for_prompts(prompts), prompts)
        self._base: Steps | None = None
        self._last: tuple[Kept, Tensor, Steps] | None = None

    @torch.no_grad()
    def logits(self, kept: Kept) -> Float[Tensor, "n vocab"]:
        if self._last is None or self._last[0] is not kept:
            self.uncounted_passes += 1
            logits, steps = self._pass.run(kept, self._base)
            self._last = kept, logits, steps
        return self._last[1]

    def rebase(self, kept: Kept) -> None:
        self.logits(kept)
        assert self._last is not None
        self._base = self._last[2]
