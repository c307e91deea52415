"""What every writer of a component graph adds to the residual stream, as the model runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.hooks import Hooks

Receive = Callable[[Float[Tensor, "writers batch pos d_model"], slice], None]
"""Is given writers' outputs and their places among the writers that are wanted."""

FIRST_STREAM = "blocks.0.hook_resid_pre"


class WriterOutputs:
    """The outputs of all writers of a model."""

    def __init__(self, model: HookedTransformer, graph: ComponentGraph) -> None:
        self._graph, self._device = graph, model.cfg.device
        self.embedding = EmbeddingOutputs(graph)
        self.heads = [HeadOutputs(model, layer) for layer in range(graph.n_layers)]

    def hand_over(
        self, receive: Receive, edits: Hooks, captures: Hooks, wanted: Sequence[bool] | None = None
    ) -> None:
        """Add hooks that hand over each writer's output as soon as it is known.

        Args:
            wanted: by column, the writers to hand over; None for all.
        """
        graph, place = self._graph, 0

        def places(columns: slice) -> tuple[Tensor, slice]:
            nonlocal place
            width = columns.stop - columns.start
            chosen = [i for i in range(width) if wanted is None or wanted[columns.start + i]]
            place += len(chosen)
            index = torch.tensor(chosen, dtype=torch.long, device=self._device)
            return index, slice(place - len(chosen), place)

        chosen, where = places(slice(0, graph.n_inputs))
        if len(chosen):
            captures.add(FIRST_STREAM, _HandOver(receive, where, self.embedding.each, chosen))
            self.embedding.watch(captures)
        for sublayer in graph.sublayers:
            chosen, where = places(sublayer.writers)
            if not len(chosen):
                continue
            if sublayer.kind == "mlp":
                captures.add(f"blocks.{sublayer.layer}.hook_mlp_out", _HandOver(receive, where))
                continue
            heads = self.heads[sublayer.layer]
            heads.watch(edits, captures)
            # As an edit, so that an edit which comes later finds these heads handed over.
            name = f"blocks.{sublayer.layer}.hook_attn_out"
            edits.add(name, _HandOver(receive, where, heads.each, chosen))


class _HandOver:
    def __init__(
        self,
        receive: Receive,
        where: slice,
        each: Callable[[Tensor, Tensor], Tensor] | None = None,
        chosen: Tensor | None = None,
    ) -> None:
        self._receive, self._where, self._each, self._chosen = receive, where, each, chosen

    def __call__(self, written: Float[Tensor, "batch pos d_model"]) -> None:
        if self._each is None or self._chosen is None:
            self._receive(written[None], self._where)
        else:
            self._receive(self._each(written, self._chosen), self._where)


class EmbeddingOutputs:
    """The embedding, or token and position embedding when they are split."""

    def __init__(self, graph: ComponentGraph) -> None:
        self._split = graph.split_embeddings
        self._parts: dict[str, Tensor] = {}
        self._watched = False

    def watch(self, captures: Hooks) -> None:
        """Add what `each` needs; call it when all who use `each` have added their hooks."""
        if not self._split or self._watched:
            return
        self._watched = True
        for name in ("hook_embed", "hook_pos_embed"):
            captures.add(name, lambda value, name=name: self._parts.update({name: value}))
        captures.add(FIRST_STREAM, lambda _: self._parts.clear())

    def each(
        self, stream: Float[Tensor, "batch pos d_model"], chosen: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "inputs batch pos d_model"]:
        """The outputs of some of them, given the first stream."""
        if not self._split:
            return stream[None]
        if not self._parts:
            raise ValueError(
                "with split embeddings a circuit runs on tokens: neither start_at_layer nor the "
                "generate method of a plain HookedTransformer says what each of the two wrote."
            )
        return torch.stack(list(self._parts.values())).index_select(0, chosen)


class HeadOutputs:
    """The outputs of one layer's heads.

    A head's output is z W_O, by a product of all heads with their matrices at once; the layer's
    output bias is an always-on constant. Where an AbsTopK or a norm stands between the heads and
    the stream, a head's output is its share through the live gate or scale, and the bias, which is
    gated with it, is shared evenly by the heads.
    """

    def __init__(self, model: HookedTransformer, layer: int) -> None:
        block: Any = model.blocks[layer]
        self._attn, self._at = block.attn, f"blocks.{layer}"
        self._gated = _has_abs_topk(model, "attn_out")
        self._norm, self._norm_name = None, ""
        if model.cfg.use_normalization_before_and_after:
            self._norm, self._norm_name = block.ln1_post, "ln1_post"
        elif model.cfg.original_architecture in POST_NORM_ARCHITECTURES:
            self._norm, self._norm_name = block.ln1, "ln1"
        if isinstance(self._norm, nn.Identity):
            self._norm = None
        self._watched = False
        self._z: Tensor | None = None
        self._factor: Tensor | None = None  # gate or 1 / scale of this run

    def watch(self, edits: Hooks, captures: Hooks) -> None:
        """Add what `each` and `weighted` need, before any edit of `hook_attn_out`."""
        if self._watched:
            return
        self._watched = True
        captures.add(f"{self._at}.attn.hook_z", self._keep_z)
        if self._gated:
            edits.add(f"{self._at}.hook_attn_out", self._keep_gate)
        elif self._norm is not None:
            captures.add(f"{self._at}.{self._norm_name}.hook_scale", self._keep_scale)

    def each(
        self, attn_out: Float[Tensor, "batch pos d_model"], chosen: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "heads batch pos d_model"]:
        """The outputs of some heads, while `attn_out` is written."""
        z, weight = self._of(chosen)
        batch, pos = z.shape[:2]
        z = z.permute(2, 0, 1, 3).flatten(1, 2)  # [head, batch * pos, d_head]
        if self._factor is None:
            return torch.bmm(z, weight).unflatten(1, (batch, pos)).to(attn_out.dtype)
        bias = self._shared_bias(z.dtype).expand(len(chosen), 1, -1)
        out = torch.baddbmm(bias, z, weight).unflatten(1, (batch, pos))
        return self._through(out).to(attn_out.dtype)

    def weighted(
        self, weights: Float[Tensor, " heads"], chosen: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The sum of some heads' outputs, each times its weight, in one product."""
        z, weight = self._of(chosen)
        weights = weights.to(z.dtype)
        out = (z * weights[:, None]).flatten(2) @ weight.flatten(0, 1)
        if self._factor is None:
            return out
        return self._through(out + weights.sum() * self._shared_bias(z.dtype))

    def _of(self, chosen: Int[Tensor, " chosen"]) -> tuple[Tensor, Tensor]:
        assert self._z is not None
        z, weight = self._z, self._attn.W_O.to(self._z.dtype)
        if len(chosen) == z.shape[2]:
            return z, weight
        return z.index_select(2, chosen), weight.index_select(0, chosen)

    def _shared_bias(self, dtype: torch.dtype) -> Tensor:
        return (self._attn.b_O / self._attn.W_O.shape[0]).to(dtype)

    def _through(self, out: Tensor) -> Tensor:
        """Through the gate, or the norm's scale and gain."""
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


def heads_are_coupled(model: HookedTransformer) -> bool:
    """Whether a layer's heads act on each other otherwise than through the stream.

    They do where an AbsTopK chooses among, or a norm scales by, all heads' values together.
    """
    cfg = model.cfg
    return (
        any(_has_abs_topk(model, f"attn_{place}") for place in ("q", "k", "v", "out"))
        or bool(cfg.use_normalization_before_and_after)
        or cfg.original_architecture in POST_NORM_ARCHITECTURES
        or has_joint_qk_norm(model)
    )


def has_joint_qk_norm(model: HookedTransformer) -> bool:
    """Whether the norms of queries and keys span all heads."""
    families = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")
    return model.cfg.original_architecture in families


def _has_abs_topk(model: HookedTransformer, place: str) -> bool:
    sparse_cfg = getattr(model, "sparse_cfg", None)
    return sparse_cfg is not None and sparse_cfg.has_abs_topk(place)
