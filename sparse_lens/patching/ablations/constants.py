"""Ablations whose values do not depend on the prompts: zeros and means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.base import Graph, did_you_mean
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.ablations.binding import Ablation, BoundAblation, check_tokens
from sparse_lens.patching.activations import Values, mean_activations
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class ZeroAblation(Ablation):
    """An absent node or edge carries zero."""

    def bind(self, model: HookedTransformer, graph: Graph) -> BoundConstants:
        """No values, which stands for zeros."""
        return BoundConstants(model, graph, {})


@dataclass(frozen=True, eq=False)
class MeanAblation(Ablation):
    """An absent node or edge carries a mean activation.

    Without arguments the mean is taken over the model's `reference_tokens`, a sample of its
    training distribution; if it has none, `bind` raises and names what to pass instead.
    """

    means: Mapping[str, Float[Tensor, "..."]] | None = None
    """Means by site name. On a channel graph `[width]`, or `[pos, width]` with one mean per
    position; on a component graph, where a node's value is a vector, `[width, d_model]` or
    `[width, pos, d_model]`."""

    tokens: Int[Tensor, "n pos"] | None = None
    """Tokens over which to take the means."""

    lengths: Int[Tensor, " rows"] | None = None
    """Number of tokens of each row before the padding on its right; None for rows without it."""

    per_position: bool = False
    """One mean per position instead of one pooled over positions."""

    def __post_init__(self) -> None:
        if self.means is not None and not isinstance(self.means, Mapping):
            raise ValueError(
                f"means are tensors by site name, got {type(self.means).__name__}; the tokens over "
                "which to take means are MeanAblation(tokens=...)."
            )
        check_tokens(self.tokens)
        if self.means is not None and self.tokens is not None:
            raise ValueError(
                "MeanAblation takes either means (used as they are) or tokens (means are "
                "computed over them), got both; drop one."
            )
        if self.lengths is not None and self.tokens is None:
            raise ValueError("MeanAblation takes lengths of the rows of tokens=; pass these, too.")
        if self.means is not None and self.per_position:
            raise ValueError(
                "per_position says how means are computed, but the means are given: drop it. "
                "Means with one row per position are recognised by their shape."
            )

    def bind(self, model: HookedTransformer, graph: Graph) -> BoundConstants:
        """The given means, or means over the given tokens or the model's reference tokens.

        Raises:
            ValueError: for means that do not fit the graph, or a model without reference tokens.
        """
        if self.means is not None:
            return BoundConstants(model, graph, _checked(graph, self.means))
        tokens = self.tokens
        if tokens is None:
            tokens = getattr(model, "reference_tokens", None)
        if tokens is None:
            raise ValueError(
                "MeanAblation() takes means over the model's reference tokens, and this model has "
                "none: pass MeanAblation(tokens=...) with text like its training data, or means=."
            )
        means = mean_activations(
            model, graph, tokens, lengths=self.lengths, per_position=self.per_position
        )
        return BoundConstants(model, graph, means)


@dataclass(frozen=True, eq=False)
class BoundConstants(BoundAblation):
    """Zeros, means or other values that do not depend on the prompts."""

    constants: Values = field(repr=False)
    """By site; a missing site carries zeros."""

    def values(self, prompts: Prompts | None) -> Values:
        """The constants."""
        return self.constants

    def fixed(self, prompts: Prompts) -> BoundConstants:
        """Itself."""
        return self

    def writer_values(
        self, prompts: Prompts | None
    ) -> Float[Tensor, "writers *batch_pos d_model"] | None:
        """The constants of all writers of a component graph in one tensor; None for zeros."""
        return self._writer_constants

    @cached_property
    def _writer_constants(self) -> Tensor | None:
        return super().writer_values(None)


def _checked(graph: Graph, means: Mapping[str, Tensor]) -> Values:
    """The means, detached.

    Raises:
        ValueError: unless they have one tensor of the right shape for every site but the logits.
    """
    sites = list(graph.valued_sites)
    unknown = [name for name in means if name not in sites]
    if unknown:
        hint = did_you_mean(unknown[0], sites)
        raise ValueError(f"means name {unknown[:4]}, which are no sites of {graph}.{hint}")
    missing = [name for name in sites if name not in means]
    if missing:
        raise ValueError(
            f"means must name every site of {graph}: {len(missing)} are missing, "
            f"{', '.join(missing[:4])}{', ...' * (len(missing) > 4)}."
        )
    is_component = isinstance(graph, ComponentGraph)
    for name in sites:
        width, shape = graph.sites[name].width, tuple(means[name].shape)
        pooled = (width, graph.d_model) if is_component else (width,)
        # Means per position have one more axis, before the last one.
        if len(shape) not in (len(pooled), len(pooled) + 1) or (
            (*shape[: len(pooled) - 1], shape[-1]) != pooled
        ):
            expected = ", ".join(map(str, pooled))
            per_position = ", ".join(map(str, (*pooled[:-1], "pos", pooled[-1])))
            raise ValueError(
                f"the means of {name!r} must have shape [{expected}] or [{per_position}], "
                f"got {list(shape)}."
            )
    if is_component and len({means[name].ndim for name in sites}) > 1:
        raise ValueError("either all means have one row per position, or none; got a mixture.")
    return {name: means[name].detach() for name in sites}
