"""A circuit that is run again and again on the same prompts, changed a little each time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.removal.kept import Kept
from sparse_lens.patching.removal.sparse_gpt import SparseGPTPass, can_run
from sparse_lens.patching.run import answer_logits, patched
from sparse_lens.task import Prompts

BATCH_SIZE = 256


class CircuitRuns(ABC):
    """Runs of circuits on some prompts; those that differ little from a base may be cheap."""

    n_passes: int = 0
    """Passes of a batch through the model, or through the part of it that changes, so far."""

    @abstractmethod
    def logits(self, kept: Kept) -> Float[Tensor, "n vocab"]:
        """Logits at the answer positions of the model run as a circuit."""

    @abstractmethod
    def rebase(self) -> None:
        """Let the circuit that ran last be the base of the next ones."""


def circuit_runs(bound: BoundAblation, prompts: Prompts) -> CircuitRuns:
    """The fastest runs that there are for a model and its graph."""
    if isinstance(bound.graph, ChannelGraph) and isinstance(bound.model, HookedSparseGPT):
        if can_run(bound.model, prompts):
            return StepwiseRuns(bound, prompts)
    return WholeRuns(bound, prompts)


class WholeRuns(CircuitRuns):
    """Whole passes through the hooked model, whatever it is."""

    def __init__(self, bound: BoundAblation, prompts: Prompts) -> None:
        self._bound, self._batches = bound, list(bound.batches(prompts, BATCH_SIZE))

    @torch.no_grad()
    def logits(self, kept: Kept) -> Float[Tensor, "n vocab"]:
        circuit, model = kept.circuit(), self._bound.model
        parts = []
        for batch, ablation in self._batches:
            with patched(model, circuit, ablation=ablation, prompts=batch):
                parts.append(answer_logits(model, batch))
        self.n_passes += len(parts)
        return torch.cat(parts)

    def rebase(self) -> None:
        """Nothing is kept."""


class StepwiseRuns(CircuitRuns):
    """Passes through a sparse GPT that compute only what differs from the base.

    What comes before the first change is the base's, and only the answer position is computed of
    what acts through it alone. The values of all prompts at all nodes are held in memory.
    """

    def __init__(self, bound: BoundAblation, prompts: Prompts) -> None:
        self._pass = SparseGPTPass(bound.for_prompts(prompts), prompts)
        self._base = self._last = None

    @torch.no_grad()
    def logits(self, kept: Kept) -> Float[Tensor, "n vocab"]:
        self.n_passes += 1
        logits, self._last = self._pass.run(kept, self._base)
        return logits

    def rebase(self) -> None:
        self._base = self._last
