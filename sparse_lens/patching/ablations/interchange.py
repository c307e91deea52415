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

    Without tokens these are the prompts' own corrupted ones. For those of other prompts, drawn at
    random, see :class:`ResampleAblation`.
    """

    tokens: Int[Tensor, "n pos"] | None = None
    """`[n, pos]`, aligned with the tokens that the circuit runs on; one row serves all."""

    def __post_init__(self) -> None:
        check_tokens(self.tokens)

    def bind(self, model: HookedTransformer, graph: Graph) -> BoundInterchange:
        """Nothing is computed before the prompts are known."""
        return BoundInterchange(model, graph, self.tokens)


@dataclass(frozen=True, eq=False)
class BoundInterchange(BoundAblation):
    """Activations on other tokens: those given, or the prompts' corrupted ones."""

    tokens: Int[Tensor, "n pos"] | None = field(repr=False)

    def values(self, prompts: Prompts | None) -> Values:
        """Activations of the whole model on the other tokens."""
        return activations(self.model, self.graph, self.tokens_of(prompts))

    def writer_values(self, prompts: Prompts | None) -> Float[Tensor, "writers n pos d_model"]:
        """Outputs of all writers of the whole model on the other tokens."""
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
        if self.tokens is None or len(self.tokens) == 1:  # one row serves all
            return self
        if isinstance(rows, Tensor):
            rows = rows.to(self.tokens.device)
        return replace(self, tokens=self.tokens[rows])
