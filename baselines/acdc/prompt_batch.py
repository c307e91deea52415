"""Losses of a circuit and its variants on one batch of prompts."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.objectives import Objective
from sparse_lens.patching import BoundAblation, CircuitVariants, full_logits
from sparse_lens.task import Prompts

# Repeated prompts are kept for so many different numbers of variants.
_MOST_REPEATED = 16


class PromptBatch:
    """Some of the prompts, and the circuit as it runs on them.

    Args:
        kept: the circuit's edges, bool [readers, writers].
    """

    def __init__(
        self, bound: BoundAblation, prompts: Prompts, objective: Objective, kept: np.ndarray
    ) -> None:
        self._prompts, self._objective = prompts.to(bound.device), objective
        self.n_prompts = len(prompts)
        self.variants = CircuitVariants(bound, self._prompts, kept)
        self._repeated: dict[int, Prompts] = {}  # by the number of variants
        self._full: Float[Tensor, "n vocab"] | None = None
        if objective.needs_full_logits:
            is_full = kept.sum() == bound.graph.n_edges
            logits = self.variants.logits if is_full else full_logits(bound.model, self._prompts)
            self._full = logits

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._prompts.clean.device

    def initial_loss(self) -> float:
        """Of the circuit at the start, summed over the prompts."""
        return float(self._losses(self.variants.logits[None])[0])

    def losses(self, rows: list[int], kept: np.ndarray) -> Float[Tensor, " variants"]:
        """The same of variants; see `CircuitVariants.run`."""
        return self._losses(self.variants.run(rows, kept))

    @torch.no_grad()
    def _losses(self, logits: Float[Tensor, "variants n vocab"]) -> Float[Tensor, " variants"]:
        n_variants, n = logits.shape[:2]
        if n_variants not in self._repeated:
            if len(self._repeated) == _MOST_REPEATED:
                del self._repeated[next(iter(self._repeated))]
            rows = torch.arange(n, device=logits.device).repeat(n_variants)
            self._repeated[n_variants] = self._prompts[rows]
        full = None if self._full is None else self._full.repeat(n_variants, 1)
        losses = self._objective(logits.flatten(0, 1), self._repeated[n_variants], full)
        return losses.view(n_variants, n).cpu().sum(1, dtype=torch.float64)
