"""Forward passes in which each copy of a batch has a cut of its own."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_lens.objectives import Objective
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.hooks import Attachment
from sparse_lens.patching.run import answer_logits, full_logits
from sparse_lens.patching.suspension import suspended
from sparse_lens.task import Prompts

Indices = Int[Tensor, " cuts"]


class Passes:
    """Forward passes of several copies of a batch, compared with the whole model."""

    def __init__(
        self, bound: BoundAblation, prompts: Prompts, objective: Objective, rows: int
    ) -> None:
        self.bound, self.model = bound, bound.model
        self.prompts, self._objective = prompts, objective
        self._logits = full_logits(self.model, prompts)
        self._loss = self._of(self._logits, 1)
        self._cuts = max(1, rows // len(prompts))

    def chunks(self, *indices: Int[Tensor, " n"]) -> Iterator[tuple[Indices, ...]]:
        """Some of the cuts after the other."""
        if len(indices[0]):  # a block may have no edge
            yield from zip(*(index.split(self._cuts) for index in indices), strict=True)

    def effects(self, n_cuts: int, attachment: Attachment) -> Float[Tensor, " cuts"]:
        """Changes of the objective, summed over prompts; copy after copy has its own cut."""
        with suspended(self.model), attachment.attached():
            logits = answer_logits(self.model, self._copies(n_cuts))
        change = self._of(logits, n_cuts).view(n_cuts, -1) - self._loss
        return change.sum(1, dtype=torch.float32)

    def _of(self, logits: Float[Tensor, "rows vocab"], copies: int) -> Float[Tensor, " rows"]:
        return self._objective(logits, self._copies(copies), self._logits.repeat(copies, 1))

    def _copies(self, n: int) -> Prompts:
        return self.prompts[torch.arange(len(self.prompts), device=self._device).repeat(n)]

    @property
    def _device(self) -> torch.device:
        return self.prompts.clean.device
