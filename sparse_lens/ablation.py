"""What an absent node or edge carries.

These are specifications: they hold no tensor of any model until
:func:`sparse_lens.patching.bind` meets them with a model, so one specification serves a whole
comparison.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Ablation:
    """Base class of the specifications below."""


@dataclass(frozen=True)
class ZeroAblation(Ablation):
    """An absent node or edge carries zero."""


@dataclass(frozen=True, eq=False)
class MeanAblation(Ablation):
    """An absent node or edge carries a mean activation.

    Without arguments the mean is taken over the model's own reference tokens (a sample of its
    training distribution); a model without any makes `bind` raise with what to pass instead.
    """

    means: Mapping[str, Float[Tensor, "*pos width"]] | None = None
    """Means by site name, `[width]`, or `[pos, width]` with one row per position."""

    tokens: Int[Tensor, "n pos"] | None = None
    """Tokens over which to take the means."""

    per_position: bool = False
    """One mean per position instead of one pooled over positions."""

    def __post_init__(self) -> None:
        if self.means is not None and self.tokens is not None:
            raise ValueError(
                "MeanAblation takes either means (used as they are) or tokens (means are "
                "computed over them), got both; drop one."
            )


@dataclass(frozen=True, eq=False)
class InterchangeAblation(Ablation):
    """An absent node or edge carries its value in a run on other tokens (activation patching).

    Without tokens these are the prompts' own corrupted ones. Also known as resample ablation
    when the other tokens are drawn at random.
    """

    tokens: Int[Tensor, "n pos"] | None = None
    """`[n, pos]`, aligned with the tokens that the circuit runs on."""
