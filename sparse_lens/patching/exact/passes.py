"""Forward passes in which each copy of a batch of prompts has its own cut."""

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
    """Forward passes of several copies of a batch, compared with the full model.

    Args:
        rows: batch size of a pass: prompts times copies.
    """

    def __init__(
        self, bound: BoundAblation, prompts: Prompts, objective: Objective, rows: int
    ) -> None:
        self.bound, self.model = bound, bound.model
        self.prompts, self._objective = prompts, objective
        self._full_logits = full_logits(self.model, prompts)  # [n, vocab]
        self._full_loss = self._losses(self._full_logits, 1)  # [n]
        self._max_cuts = max(1, rows // len(prompts))

    def chunks(self, *indices: Int[Tensor, " n"]) -> Iterator[tuple[Indices, ...]]:
        """Indices of cuts, split into as many as a pass has copies."""
        if len(indices[0]):  # a block can be without edges
            yield from zip(*(index.split(self._max_cuts) for index in indices), strict=True)

    def effects(self, n_cuts: int, attachment: Attachment) -> Float[Tensor, " cuts"]:
        """By cut, the change of the objective, summed over prompts.

        Args:
            attachment: makes one cut in each copy of the prompts, which follow one another.
        """
        with suspended(self.model), attachment.attached():
            logits = answer_logits(self.model, self._copies(n_cuts))
        change = self._losses(logits, n_cuts).view(n_cuts, -1) - self._full_loss  # [cuts, n]
        return change.sum(1, dtype=torch.float32)

    def _losses(self, logits: Float[Tensor, "rows vocab"], n_copies: int) -> Float[Tensor, " rows"]:
        full = self._full_logits.repeat(n_copies, 1)
        return self._objective(logits, self._copies(n_copies), full)

    def _copies(self, n: int) -> Prompts:
        rows = torch.arange(len(self.prompts), device=self.prompts.clean.device)
        return self.prompts[rows.repeat(n)]
