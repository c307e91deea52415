"""Interchange ablation: the values of a run on other tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.ablations.binding import Ablation, BoundAblation, check_tokens
from sparse_lens.patching.activations import Values, activations, writer_activations
from sparse_lens.task import Prompts


@dataclass(frozen=True, eq=False)
class InterchangeAblation(Ablation):
    """An absent node or edge carries its value in a run on other tokens (activation patching).

    By default the other tokens are the prompts' corrupted ones. For those of another prompt, drawn
    at random, see :class:`ResampleAblation`.
    """

    tokens: Int[Tensor, "n pos"] | None = None
    """`[n, pos]`, aligned with the tokens that the circuit runs on, row by row; or a single row,
    which is used for all of them."""

    def __post_init__(self) -> None:
        check_tokens(self.tokens)

    def bind(self, model: HookedTransformer, graph: Graph) -> BoundInterchange:
        """Binding computes nothing, since the values depend on the prompts."""
        return BoundInterchange(model, graph, self.tokens)


@dataclass(frozen=True, eq=False)
class BoundInterchange(BoundAblation):
    """The full model's activations on other tokens: those given, or the corrupted prompts."""

    tokens: Int[Tensor, "n pos"] | None = field(repr=False)

    def values(self, prompts: Prompts | None) -> Values:
        """Activations of the full model on the other tokens."""
        return activations(self.model, self.graph, self.tokens_of(prompts))

    def writer_values(self, prompts: Prompts | None) -> Float[Tensor, "writers n pos d_model"]:
        """Outputs of all writers of the full model on the other tokens."""
        assert isinstance(self.graph, ComponentGraph)
        return writer_activations(self.model, self.graph, self.tokens_of(prompts))

    def tokens_of(self, prompts: Prompts | None) -> Int[Tensor, "n pos"]:
        """The given tokens, or the prompts' corrupted ones."""
        if self.tokens is not None:
            return self.tokens
        if prompts is None:
            raise ValueError(
                "InterchangeAblation() takes the prompts' corrupted tokens, but there are only "
                "tokens here: pass Prompts, or InterchangeAblation(tokens=...)."
            )
        return prompts.corrupted

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> BoundInterchange:
        """The ablation for some rows of the given tokens."""
        if self.tokens is None or len(self.tokens) == 1:  # a single row is used for all prompts
            return self
        if isinstance(rows, Tensor):
            rows = rows.to(self.tokens.device)
        return replace(self, tokens=self.tokens[rows])
