"""One layer of a model in parts: what heads and the MLP make of streams that they are given."""

from functools import cached_property, lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components.attention import Attention
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention

from sparse_lens.graphs.component import LETTERS
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.component.reading import attention_reader, fused_norm
from sparse_lens.patching.variants.bare import HeadsAlone, bare
from sparse_lens.patching.variants.plain import plain_mlp
from sparse_lens.patching.variants.spans import span

# Of so many choices of heads the weights are kept side by side.
_N_RECENT = 2


class LayerParts:
    """A layer whose heads do not act on each other; no hook fires.

    Position embeddings are needed where the model concatenates them to what its sublayers read.
    """

    def __init__(self, model: HookedTransformer, layer: int) -> None:
        block: Any = model.blocks[layer]
        self._attn, self._block = block.attn, bare(block)
        self._anatomy = anatomy = anatomy_of(model)
        self._reader = attention_reader(model, layer)
        self._ln2 = fused_norm(self._block.ln2 if anatomy.mlp_norms else nn.Identity())
        self._plain_mlp = None if anatomy.attn_only else plain_mlp(block, anatomy)
        self._n_heads = int(model.cfg.n_heads)
        self._projection = lru_cache(_N_RECENT)(self._chosen_projection)
        self._outputs = lru_cache(_N_RECENT)(self._chosen_outputs)
        self._alone: dict[tuple[int, ...], HeadsAlone] = {}

    @property
    def constant(self) -> Float[Tensor, " d_model"]:
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
            readers: places among all queries, keys and values of the layer's heads, in this order.
        """
        weights, biases = self._projection(readers)
        return torch.baddbmm(biases, read, weights)

    def _chosen_projection(self, readers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Weights [readers, d_in, d_head] and biases [readers, 1, d_head]."""
        weights, biases = [], []
        for place, name in enumerate(LETTERS.upper()):
            first = place * self._n_heads
            heads = span([one - first for one in readers if 0 <= one - first < self._n_heads])
            weights.append(getattr(self._attn, f"W_{name}")[heads])
            biases.append(getattr(self._attn, f"b_{name}")[heads])
        return torch.cat(weights), torch.cat(biases)[:, None]

    def _chosen_outputs(self, heads: tuple[int, ...]) -> Float[Tensor, "heads d_head d_model"]:
        return self._attn.W_O[list(heads)]

    def attend(
        self,
        heads: list[int],
        queries: Float[Tensor, "batch pos heads d_head"],
        keys: Float[Tensor, "batch pos heads d_head"],
        values: Float[Tensor, "batch pos heads d_head"],
        attention_mask: Tensor | None,
    ) -> Float[Tensor, "batch pos heads d_head"]:
        """What some heads read out."""
        alone = self._alone.get(tuple(heads))
        if alone is None:
            chosen = torch.tensor(heads, device=queries.device)
            alone = self._alone[tuple(heads)] = HeadsAlone(self._attn, chosen)
        return alone.attend(queries, keys, values, attention_mask=attention_mask)

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
            type(attn) in (Attention, GroupedQueryAttention)
            and self._anatomy.plain_attention
            and self.is_causal
            and attn.attn_type == "global"
        )

    def attend_plainly(
        self,
        queries: Float[Tensor, "*any query d_head"],
        keys: Float[Tensor, "*any key d_head"],
        values: Float[Tensor, "*any key d_head"],
        mask: Float[Tensor, "*#any query key"],
    ) -> Float[Tensor, "*any query d_head"]:
        """The same of plain heads, whose queries may be of some positions only.

        Args:
            mask: is added to the scores.
        """
        scores = torch.matmul(queries, keys.transpose(-1, -2)).div_(self._attn.attn_scale)
        return torch.matmul(scores.add_(mask).softmax(-1), values)

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
