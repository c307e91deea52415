"""Attention of some heads on the prompts of a frame, in many circuits at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.patching.incremental.embedding import AnswerPositions, Embedded
from sparse_lens.patching.incremental.head_attention import LayerAttention
from sparse_lens.patching.incremental.prefix import SharedPrefix
from sparse_lens.patching.incremental.spans import span


class PromptAttention:
    """Attention that knows which keys a query sees, and the keys of positions left out.

    Args:
        layers: attention of each.
        embedded, answers: of the positions that are computed.
        prefix: the positions before them.
    """

    def __init__(
        self,
        layers: Sequence[LayerAttention],
        embedded: Embedded,
        answers: AnswerPositions,
        prefix: SharedPrefix,
    ) -> None:
        self._layers, self._answers, self._prefix = layers, answers, prefix
        self._attention_mask = embedded.attention_mask
        pos = embedded.inputs.shape[2]
        n_keys = prefix.length + pos
        # Added to scores, [query, key]: -inf for keys after the query, whose index is greater by
        # the length of the prefix than among queries.
        masked = embedded.inputs.new_full((pos, n_keys), -torch.inf)
        self._causal = masked.triu(1 + prefix.length)
        self._causal_at_answer = self._causal[answers.columns, None]  # [batch, 1, key]

    def attend(
        self,
        layer: int,
        heads: list[int],
        queries: Float[Tensor, "head variant batch *query d_head"],
        keys: Float[Tensor, "head variant batch pos d_head"],
        values: Float[Tensor, "head variant batch pos d_head"],
        *,
        all_positions: bool,
    ) -> Float[Tensor, "head variant batch *query d_head"]:
        """What some heads read out at all positions, or at the answer's alone."""
        attention, n = self._layers[layer], self._prefix.length
        if n:
            first_keys, first_values = (
                part[span(heads), None].expand(-1, keys.shape[1], -1, -1, -1)
                for part in self._prefix.keys_values[layer]
            )
            keys = torch.cat([first_keys, keys], 3)  # [head, variant, batch, n + pos, d_head]
            values = torch.cat([first_values, values], 3)
        if attention.is_plain and self._attention_mask is None:
            if all_positions:
                return attention.plain(queries, keys, values, self._causal)
            # A query axis of length 1.
            z = attention.plain(queries[..., None, :], keys, values, self._causal_at_answer)
            return z[..., 0, :]
        # TransformerLens's module takes as many queries as keys; most of these are not used.
        padded = queries.new_zeros(*values.shape[:-1], queries.shape[-1])
        if all_positions:
            padded[..., n:, :] = queries
        else:
            self._answers.put(queries, padded[..., n:, :])
        z = attention.by_module(heads, padded, keys, values, self._attention_mask)[..., n:, :]
        return z if all_positions else self._answers.take(z)
