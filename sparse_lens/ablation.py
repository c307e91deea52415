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

    means: Mapping[str, Float[Tensor, "..."]] | None = None
    """Means by site name. On a channel graph `[width]`, or `[pos, width]` with one row per
    position; on a component graph, where a node's value is a vector, `[width, d_model]` or
    `[width, pos, d_model]`."""

    tokens: Int[Tensor, "n pos"] | None = None
    """Tokens over which to take the means."""

    lengths: Int[Tensor, " rows"] | None = None
    """Tokens of each row that are not padding on its right; None when none is padded."""

    per_position: bool = False
    """One mean per position instead of one pooled over positions."""

    def __post_init__(self) -> None:
        if self.means is not None and not isinstance(self.means, Mapping):
            raise ValueError(
                f"means are tensors by site name, got {type(self.means).__name__}; the tokens over "
                "which to take means are MeanAblation(tokens=...)."
            )
        _check_tokens(self.tokens)
        if self.means is not None and self.tokens is not None:
            raise ValueError(
                "MeanAblation takes either means (used as they are) or tokens (means are "
                "computed over them), got both; drop one."
            )
        if self.lengths is not None and self.tokens is None:
            raise ValueError("MeanAblation takes lengths of the rows of tokens=; pass these, too.")
        if self.means is not None and self.per_position:
            raise ValueError(
                "per_position says how means are computed, and here they are given: drop it. "
                "Means with one row per position are recognised by their shape."
            )


@dataclass(frozen=True, eq=False)
class InterchangeAblation(Ablation):
    """An absent node or edge carries its value in a run on other tokens (activation patching).

    Without tokens these are the prompts' own corrupted ones. Also known as resample ablation
    when the other tokens are drawn at random.
    """

    tokens: Int[Tensor, "n pos"] | None = None
    """`[n, pos]`, aligned with the tokens that the circuit runs on; one row serves all."""

    def __post_init__(self) -> None:
        _check_tokens(self.tokens)


def _check_tokens(tokens: object) -> None:
    if tokens is not None and not (isinstance(tokens, Tensor) and tokens.ndim == 2):
        shape = f" of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else ""
        raise ValueError(
            f"tokens must be a tensor [n, pos], got {type(tokens).__name__}{shape}; of prompts "
            "these are prompts.clean or prompts.corrupted."
        )
