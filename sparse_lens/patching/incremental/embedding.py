"""What a model's embeddings make of tokens, and where each prompt is answered."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.component.writers import EmbeddingOutputs
from sparse_lens.patching.hooks import Attachment, Hooks
from sparse_lens.patching.suspension import suspended


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embedded tokens."""

    inputs: Float[Tensor, "inputs batch pos d_model"]
    """The embedding, or token and position embedding when they are split."""

    positions: Float[Tensor, "batch pos d_pos"] | None
    """Position embeddings that are concatenated to what sublayers read."""

    attention_mask: Tensor | None
    """`[batch, pos]` of all positions, false on padding; None where the model needs none."""

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: HookedTransformer, graph: ComponentGraph, tokens: Int[Tensor, "batch pos"]
    ) -> Embedded:
        """Tokens on the model's device."""
        outputs = EmbeddingOutputs(anatomy_of(model), split=graph.split_embeddings)
        captures = Hooks()
        outputs.watch(captures)
        attachment = Attachment(model, edits={}, captures=captures.merged())
        with suspended(model), attachment.attached():
            stream, _, positions, attention_mask = model.input_to_embed(tokens)
            inputs = outputs.each(stream, torch.arange(graph.n_inputs, device=stream.device))
        if positions is not None:
            positions = positions.expand(*inputs.shape[1:3], -1)
        return cls(inputs, positions, attention_mask)

    def after(self, n: int) -> Embedded:
        """Without the first n positions."""
        positions = None if self.positions is None else self.positions[:, n:]
        return Embedded(self.inputs[:, :, n:], positions, self.attention_mask)


@dataclass(frozen=True, eq=False)
class AnswerPositions:
    """Where each prompt is answered."""

    rows: Int[Tensor, " batch"]
    columns: Int[Tensor, " batch"]

    def after(self, n: int) -> AnswerPositions:
        """Where positions are counted from the one after the first n."""
        return AnswerPositions(self.rows, self.columns - n)

    def take(self, values: Float[Tensor, "*any batch pos d"]) -> Float[Tensor, "*any batch d"]:
        """Of each prompt the values at the answer position."""
        return values[..., self.rows, self.columns, :]

    def put(
        self, at_answer: Float[Tensor, "*any batch d"], out: Float[Tensor, "*any batch pos d"]
    ) -> None:
        """Write values at the answer positions."""
        out[..., self.rows, self.columns, :] = at_answer
