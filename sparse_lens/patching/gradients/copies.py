"""Several points on the path of integrated gradients in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.objectives import Objective
from sparse_lens.patching.gradients.points import GradientPoints
from sparse_lens.patching.run import full_logits_for
from sparse_lens.task import Prompts


@dataclass(frozen=True, eq=False)
class Copies:
    """A batch of prompts, repeated: what is moved has another share of its live value in each."""

    shares: tuple[float, ...]
    """By copy."""

    prompts: Prompts
    """One copy after the other."""

    full_logits: Float[Tensor, "rows vocab"] | None
    """The whole model's, for objectives that compare with them."""

    @property
    def moved(self) -> bool:
        """Whether any copy differs from the live run."""
        return min(self.shares) < 1

    def moving(self, change: Float[Tensor, "#batch #pos *channels"]) -> Callable[[Tensor], Tensor]:
        """Live values become share * live + (1 - share) * ablated.

        Args:
            change: ablated - live, of one copy.
        """

        def move(found: Tensor) -> Tensor:
            away = found.new_tensor([1 - share for share in self.shares])
            copies = found.unflatten(0, (len(self.shares), -1))
            moved = copies + away.view(-1, *[1] * found.ndim) * change.to(found.dtype)
            return moved.flatten(0, 1)

        return move

    def total(
        self, rows: Float[Tensor, "rows pos *channels"]
    ) -> Float[Tensor, "batch pos *channels"]:
        """The sum over copies."""
        return rows if len(self.shares) == 1 else rows.unflatten(0, (len(self.shares), -1)).sum(0)


def repeated(
    model: HookedTransformer,
    prompts: Prompts,
    objective: Objective,
    points: GradientPoints,
    *,
    copies: int,
) -> Sequence[Copies]:
    """The passes of all shares, at so many copies a pass."""
    full = full_logits_for(objective, model, prompts)
    row = torch.arange(len(prompts), device=prompts.clean.device)
    return [
        Copies(
            shares,
            prompts[row.repeat(len(shares))],
            None if full is None else full.repeat(len(shares), 1),
        )
        for shares in points.together(copies)
    ]
