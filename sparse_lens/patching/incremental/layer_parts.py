"""One layer of a model in parts: what heads and the MLP make of streams that they are given."""

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import LETTERS
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.component.reading import attention_reader, fused_norm
from sparse_lens.patching.hookless import without_hooks
from sparse_lens.patching.incremental.head_attention import LayerAttention
from sparse_lens.patching.incremental.plain import plain_mlp
from sparse_lens.patching.incremental.spans import span

# Weights of heads that are no neighbours are copied side by side, for so many choices of heads.
_N_RECENT = 2


class LayerParts:
    """A layer whose heads do not act on each other, without hooks.

    Position embeddings are needed where the model concatenates them to what its sublayers read.
    """

    def __init__(self, model: HookedTransformer, layer: int) -> None:
        block: Any = model.blocks[layer]
        self._attn, self._block = block.attn, without_hooks(block)
        self._anatomy = anatomy = anatomy_of(model)
        self._reader = attention_reader(model, layer)
        self._ln2 = fused_norm(self._block.ln2 if anatomy.mlp_norms else nn.Identity())
        self._plain_mlp = None if anatomy.attn_only else plain_mlp(block, anatomy)
        self._n_heads = int(model.cfg.n_heads)
        self._projection = lru_cache(_N_RECENT)(self._projection_of)
        self._outputs = lru_cache(_N_RECENT)(self._output_weights_of)
        self.attention = LayerAttention(block.attn, anatomy)

    @property
    def bias(self) -> Float[Tensor, " d_model"]:
        """What attention adds to the stream beside its heads' outputs."""
        return self._attn.b_O

    def read_(
        self,
        streams: Float[Tensor, "readers tokens d_model"],
        positions: Float[Tensor, "batch pos d_pos"] | None,
    ) -> Float[Tensor, "readers tokens d_in"]:
        """What heads project, given the stream of each reader, which is overwritten."""
        for keep in self._reader.captures.values():
            assert positions is not None
            keep(positions)
        return self._reader.read_(streams, slice(None))

    def project(
        self, readers: tuple[int, ...], read: Float[Tensor, "readers tokens d_in"]
    ) -> Float[Tensor, "readers tokens d_head"]:
        """Queries, keys and values of some heads from what each reads.

        Args:
            readers: indices among all queries, keys and values of the layer, in this order.
        """
        weights, biases = self._projection(readers)
        return torch.baddbmm(biases, read, weights)

    def _projection_of(
        self, readers: tuple[int, ...]
    ) -> tuple[Float[Tensor, "readers d_in d_head"], Float[Tensor, "readers one d_head"]]:
        weights, biases = [], []
        for i, letter in enumerate(LETTERS.upper()):
            first = i * self._n_heads
            heads = span([r - first for r in readers if 0 <= r - first < self._n_heads])
            weights.append(getattr(self._attn, f"W_{letter}")[heads])
            biases.append(getattr(self._attn, f"b_{letter}")[heads])
        return torch.cat(weights), torch.cat(biases)[:, None]

    def _output_weights_of(self, heads: tuple[int, ...]) -> Float[Tensor, "heads d_head d_model"]:
        return self._attn.W_O[list(heads)]

    def write(
        self, heads: list[int], z: Float[Tensor, "heads tokens d_head"]
    ) -> Float[Tensor, "heads tokens d_model"]:
        """What some heads write, given what they read out."""
        weight = self._attn.W_O
        return torch.bmm(z, weight if len(heads) == len(weight) else self._outputs(tuple(heads)))

    def mlp(
        self,
        stream: Float[Tensor, "batch pos d_model"],
        positions: Float[Tensor, "batch pos d_pos"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP writes, given the stream that it sees."""
        block = self._block
        if self._plain_mlp is not None:
            return self._plain_mlp(self._ln2(stream))
        if self._anatomy.mlp_reads_norm:
            return block.apply_mlp(self._ln2(stream))
        return block.apply_mlp(block.read_mlp(stream, positions))
