"""Attention of some heads of a layer, in many circuits at once."""

import copy
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.components.attention import Attention
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention

from sparse_lens.models.anatomy import Anatomy
from sparse_lens.patching.hookless import without_hooks

_PLAIN_MODULES = (Attention, GroupedQueryAttention)


class LayerAttention:
    """From queries, keys and values of some heads of a layer to what these read out.

    Args:
        attn: the layer's own module.
    """

    def __init__(self, attn: Any, anatomy: Anatomy) -> None:
        self._attn, self._anatomy = attn, anatomy
        self._subsets: dict[tuple[int, ...], _HeadSubset] = {}

    @property
    def is_causal(self) -> bool:
        """Whether heads attend to no later positions."""
        attn, cfg = self._attn, self._attn.cfg
        return (attn._attention_dir_override or cfg.attention_dir) == "causal"

    @cached_property
    def is_plain(self) -> bool:
        """Whether heads do nothing but to attend to earlier positions by q and k."""
        attn = self._attn
        return (
            type(attn) in _PLAIN_MODULES
            and self._anatomy.plain_attention
            and self.is_causal
            and attn.attn_type == "global"
        )

    def plain(
        self,
        queries: Float[Tensor, "*any query d_head"],
        keys: Float[Tensor, "*any key d_head"],
        values: Float[Tensor, "*any key d_head"],
        mask: Float[Tensor, "*#any query key"],
    ) -> Float[Tensor, "*any query d_head"]:
        """What plain heads read out; queries may be of some positions only.

        Args:
            mask: is added to the scores: 0, or -inf where a query does not see a key.
        """
        # softmax(q k^T / scale + mask) v
        scores = torch.matmul(queries, keys.mT).div_(self._attn.attn_scale)  # [*any, query, key]
        return torch.matmul(scores.add_(mask).softmax(-1), values)

    def by_module(
        self,
        heads: list[int],
        queries: Float[Tensor, "head variant batch pos d_head"],
        keys: Float[Tensor, "head variant batch pos d_head"],
        values: Float[Tensor, "head variant batch pos d_head"],
        attention_mask: Tensor | None,
    ) -> Float[Tensor, "head variant batch pos d_head"]:
        """What any heads read out, by TransformerLens's own module.

        Args:
            attention_mask: [batch, pos], false on padding.
        """
        subset = self._subsets.get(tuple(heads))
        if subset is None:
            chosen = torch.tensor(heads, device=queries.device)
            subset = self._subsets[tuple(heads)] = _HeadSubset(self._attn, chosen)
        if attention_mask is not None:
            attention_mask = attention_mask.repeat(queries.shape[1], 1)
        inputs = (
            rearrange(part, "head variant batch pos d -> (variant batch) pos head d")
            for part in (queries, keys, values)
        )
        z = subset.attend(*inputs, attention_mask=attention_mask)
        variant = queries.shape[1]
        return rearrange(
            z, "(variant batch) pos head d -> head variant batch pos d", variant=variant
        )


class _HeadSubset:
    """TransformerLens's module with some of its heads, without the projections before and after.

    Queries, keys and values take the place of its inputs.
    """

    def __init__(self, attn: Any, heads: Int[Tensor, " heads"]) -> None:
        n_heads, d_head = len(heads), attn.W_Q.shape[2]
        subset = without_hooks(attn)
        subset.cfg = copy.copy(attn.cfg)
        subset.cfg.n_heads = n_heads
        subset.cfg.use_attn_result = False
        subset.cfg.ungroup_grouped_query_attention = True
        subset.calculate_qkv_matrices = self._normed
        # The output projection goes on behind hook_z: to a stream of no channels, at no cost.
        empty = attn.W_O.new_empty
        subset._parameters.update(W_O=empty(n_heads, d_head, 0), b_O=empty(0))
        if "sinks" in subset._parameters:
            subset._parameters["sinks"] = attn.sinks[heads]
        self._z = subset._modules["hook_z"] = _Keep()
        self._subset, self._heads, self._n_heads_in_layer = subset, heads, attn.cfg.n_heads

    def attend(
        self,
        queries: Float[Tensor, "batch pos heads d_head"],
        keys: Float[Tensor, "batch pos heads d_head"],
        values: Float[Tensor, "batch pos heads d_head"],
        *,
        attention_mask: Tensor | None,
    ) -> Float[Tensor, "batch pos heads d_head"]:
        """What each head reads out."""
        if self._subset.cfg.positional_embedding_type == "alibi":
            self._subset.alibi = self._alibi_bias(queries.shape[1], queries.device)
        self._subset(queries, keys, values, attention_mask=attention_mask)
        return self._z.value

    def _normed(
        self, queries: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All that TransformerLens does between projecting and attending in each head by itself."""
        attn = self._subset
        if not attn.cfg.use_qk_norm:
            return queries, keys, values
        normed = (attn._apply_qk_norm(queries, attn.q_norm), attn._apply_qk_norm(keys, attn.k_norm))
        return *normed, values

    def _alibi_bias(self, pos: int, device: torch.device) -> Float[Tensor, "heads pos pos"]:
        """The slopes of a head depend on how many heads the layer has."""
        bias = self._subset.create_alibi_bias(self._n_heads_in_layer, pos, device)
        return bias.to(device)[self._heads]


class _Keep(nn.Module):
    """A hook point that keeps what passes it."""

    value: Tensor

    def forward(self, value: Tensor) -> Tensor:
        self.value = value
        return value
