"""What is attributed, and the passes in which gradients are taken for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from sparse_lens.objectives import Objective
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.gradients.copies import Copies
from sparse_lens.patching.gradients.points import GradientPoints
from sparse_lens.patching.run import full_logits_for
from sparse_lens.task import Prompts


@dataclass(frozen=True, eq=False)
class Attribution:
    """An objective on prompts to attribute to nodes or edges, and how to take its gradients."""

    bound: BoundAblation
    prompts: Prompts
    objective: Objective
    points: GradientPoints

    relp: bool
    """Compute gradients by the rules of RelP."""

    max_copies: int
    """The largest number of copies of the prompts in one pass."""

    @cached_property
    def passes(self) -> Sequence[Copies]:
        """The passes over all shares of `points`, repeated for each site that is moved."""
        full = full_logits_for(self.objective, self.bound.model, self.prompts)
        rows = torch.arange(len(self.prompts), device=self.prompts.clean.device)
        return [
            Copies(
                shares,
                self.prompts[rows.repeat(len(shares))],
                None if full is None else full.repeat(len(shares), 1),
            )
            for shares in self.points.together(self.max_copies)
        ]
