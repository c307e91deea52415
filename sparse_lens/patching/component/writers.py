"""What every writer of a component graph adds to the residual stream, as the model runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.patching.hooks import Hooks

Receive = Callable[[Float[Tensor, "writers batch pos d_model"], slice], None]
"""Takes outputs of writers, and the indices of these among the writers that are wanted."""


class WriterOutputs:
    """The outputs of all writers of a model."""

    def __init__(self, model: HookedTransformer, graph: ComponentGraph) -> None:
        self._graph, self._device = graph, model.cfg.device
        self._anatomy = anatomy_of(model)
        self.embedding = EmbeddingOutputs(self._anatomy, split=graph.split_embeddings)
        self.heads = [HeadOutputs(model, self._anatomy, layer) for layer in range(graph.n_layers)]

    def hand_over(
        self, receive: Receive, edits: Hooks, captures: Hooks, wanted: Sequence[bool] | None = None
    ) -> None:
        """Add hooks that pass on each writer's output as soon as it is known.

        Args:
            wanted: by column, the writers whose outputs are passed on; None for all.
        """
        graph, anatomy, n_wanted = self._graph, self._anatomy, 0

        def wanted_of(columns: slice) -> tuple[Tensor, slice]:
            """Which of a sublayer's writers are wanted, and their indices among all of these."""
            nonlocal n_wanted
            width = columns.stop - columns.start
            kept = [i for i in range(width) if wanted is None or wanted[columns.start + i]]
            n_wanted += len(kept)
            writers = torch.tensor(kept, dtype=torch.long, device=self._device)
            return writers, slice(n_wanted - len(kept), n_wanted)

        inputs, indices = wanted_of(slice(0, graph.n_inputs))
        if len(inputs):
            pass_on = _PassOn(receive, indices, self.embedding.each, inputs)
            captures.add(anatomy.first_stream, pass_on)
            self.embedding.watch(captures)
        for sublayer in graph.sublayers:
            layer = sublayer.layer
            writers, indices = wanted_of(sublayer.writers)
            if not len(writers):
                continue
            if sublayer.kind == "mlp":
                captures.add(anatomy.mlp_out(layer), _PassOn(receive, indices))
                continue
            heads = self.heads[layer]
            heads.watch(edits, captures)
            # As an edit, so that those added later run when these outputs are passed on.
            edits.add(anatomy.attn_out(layer), _PassOn(receive, indices, heads.each, writers))


class _PassOn:
    """Passes on what is written at a hook point, as one writer's output or split into several."""

    def __init__(
        self,
        receive: Receive,
        indices: slice,
        split: Callable[[Tensor, Tensor], Tensor] | None = None,
        writers: Tensor | None = None,
    ) -> None:
        self._receive, self._indices, self._split, self._writers = receive, indices, split, writers

    def __call__(self, written: Float[Tensor, "batch pos d_model"]) -> None:
        if self._split is None or self._writers is None:
            self._receive(written[None], self._indices)
        else:
            self._receive(self._split(written, self._writers), self._indices)


class EmbeddingOutputs:
    """The embedding, or token and position embedding when they are split."""

    def __init__(self, anatomy: Anatomy, *, split: bool) -> None:
        self._anatomy, self._split = anatomy, split
        self._parts: dict[str, Tensor] = {}
        self._watched = False

    def watch(self, captures: Hooks) -> None:
        """Add what `each` needs; call it when all who use `each` have added their hooks."""
        if not self._split or self._watched:
            return
        self._watched = True
        for name in self._anatomy.embeddings:
            captures.add(name, lambda value, name=name: self._parts.update({name: value}))
        captures.add(self._anatomy.first_stream, lambda _: self._parts.clear())

    def each(
        self, stream: Float[Tensor, "batch pos d_model"], inputs: Int[Tensor, " inputs"]
    ) -> Float[Tensor, "inputs batch pos d_model"]:
        """The outputs of some of them, given the first stream."""
        if not self._split:
            return stream[None]
        if not self._parts:
            raise ValueError(
                "with split embeddings a circuit runs on tokens: neither start_at_layer nor the "
                "generate method of a plain HookedTransformer says what each of the two wrote."
            )
        return torch.stack(list(self._parts.values())).index_select(0, inputs)


class HeadOutputs:
    """The outputs of one layer's heads.

    A head's output is z W_O, by a product of all heads with their matrices at once; the layer's
    output bias is an always-on constant. Where an AbsTopK or a norm stands between the heads and
    the stream, a head's output is its share through the live gate or scale, and the bias, which is
    gated with it, is shared evenly by the heads.
    """

    def __init__(self, model: HookedTransformer, anatomy: Anatomy, layer: int) -> None:
        block: Any = model.blocks[layer]
        self._attn, self._layer, self._anatomy = block.attn, layer, anatomy
        name = anatomy.attn_post_norm
        self._norm = None if name is None else getattr(block, name)
        self._watched = False
        self._z: Tensor | None = None
        self._factor: Tensor | None = None  # gate or 1 / scale of this run

    def watch(self, edits: Hooks, captures: Hooks) -> None:
        """Add what `each` and `weighted` need, before any edit of `hook_attn_out`."""
        if self._watched:
            return
        self._watched = True
        anatomy, layer = self._anatomy, self._layer
        captures.add(anatomy.z(layer), self._keep_z)
        if anatomy.attn_is_gated:
            edits.add(anatomy.attn_out(layer), self._keep_gate)
        elif anatomy.attn_post_norm is not None:
            captures.add(anatomy.norm_scale(layer, anatomy.attn_post_norm), self._keep_scale)

    def each(
        self, attn_out: Float[Tensor, "batch pos d_model"], heads: Int[Tensor, " heads"]
    ) -> Float[Tensor, "heads batch pos d_model"]:
        """The outputs of some heads, while `attn_out` is written."""
        z, weight = self._of(heads)
        batch, pos = z.shape[:2]
        z = rearrange(z, "batch pos head d_head -> head (batch pos) d_head")
        if self._factor is None:
            return torch.bmm(z, weight).unflatten(1, (batch, pos)).to(attn_out.dtype)
        bias = self._shared_bias(z.dtype).expand(len(heads), 1, -1)
        out = torch.baddbmm(bias, z, weight).unflatten(1, (batch, pos))  # [head, batch, pos, d]
        return self._through(out).to(attn_out.dtype)

    def weighted(
        self, weights: Float[Tensor, " heads"], heads: Int[Tensor, " heads"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The sum of some heads' outputs, each times its weight, in one product."""
        z, weight = self._of(heads)
        weights = weights.to(z.dtype)
        # One product over all heads' channels: [batch, pos, head * d_head] @ [head * d_head, d].
        out = (z * weights[:, None]).flatten(2) @ weight.flatten(0, 1)
        if self._factor is None:
            return out
        return self._through(out + weights.sum() * self._shared_bias(z.dtype))

    def _of(self, heads: Int[Tensor, " heads"]) -> tuple[Tensor, Tensor]:
        assert self._z is not None
        z, weight = self._z, self._attn.W_O.to(self._z.dtype)
        if len(heads) == z.shape[2]:
            return z, weight
        return z.index_select(2, heads), weight.index_select(0, heads)

    def _shared_bias(self, dtype: torch.dtype) -> Tensor:
        return (self._attn.b_O / self._attn.W_O.shape[0]).to(dtype)

    def _through(self, out: Tensor) -> Tensor:
        """Through the gate, or the norm's scale and gain: all linear, once these are given."""
        assert self._factor is not None
        if isinstance(self._norm, LayerNorm):
            out = out - out.mean(-1, keepdim=True)
        out = out * self._factor
        return out if self._norm is None or not hasattr(self._norm, "w") else out * self._norm.w

    def _keep_z(self, z: Float[Tensor, "batch pos head d_head"]) -> None:
        self._z = z

    def _keep_scale(self, scale: Float[Tensor, "batch pos one"]) -> None:
        self._factor = 1 / scale

    def _keep_gate(self, attn_out: Float[Tensor, "batch pos d_model"]) -> None:
        self._factor = (attn_out != 0).to(attn_out.dtype)
