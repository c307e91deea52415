"""Several points of integrated gradients in one pass, on copies of the prompts."""

from collections.abc import Callable
from dataclasses import dataclass

from einops import reduce
from jaxtyping import Float
from torch import Tensor

from sparse_lens.task import Prompts


@dataclass(frozen=True, eq=False)
class Copies:
    """Copies of a batch of prompts, one per point: a share of 1 is live, one of 0 is ablated."""

    shares: tuple[float, ...]
    """The share of the live value in what is moved, by copy."""

    prompts: Prompts
    """All copies, one after the other."""

    full_logits: Float[Tensor, "rows vocab"] | None
    """The full model's logits, for objectives that compare with them."""

    @property
    def moved(self) -> bool:
        """Whether any copy differs from the live run."""
        return min(self.shares) < 1

    def moving(self, change: Float[Tensor, "#batch #pos *channels"]) -> Callable[[Tensor], Tensor]:
        """An edit of live values x to s x + (1 - s) a = x + (1 - s) (a - x) in a copy of share s.

        Args:
            change: a - x, ablated - live, of one copy.
        """

        def move(live: Tensor) -> Tensor:
            by_copy = live.unflatten(0, (len(self.shares), -1))  # [copy, batch, pos, *channels]
            weights = live.new_tensor([1 - share for share in self.shares])
            weights = weights.view(-1, *[1] * live.ndim)
            return (by_copy + weights * change.to(live.dtype)).flatten(0, 1)

        return move

    def total(
        self, rows: Float[Tensor, "rows pos *channels"]
    ) -> Float[Tensor, "batch pos *channels"]:
        """The sum over copies."""
        if len(self.shares) == 1:
            return rows
        return reduce(rows, "(copy batch) ... -> batch ...", "sum", copy=len(self.shares))
