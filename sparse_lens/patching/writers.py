"""What every writer of a component graph adds to the residual stream, as the model runs."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components import LayerNorm
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.hooks import Edit

Receive = Callable[[Float[Tensor, "writers batch pos d_model"], slice], None]
"""Is given writers' outputs and their columns in the graph."""


class WriterOutputs:
    """Captures that hand over each writer's output as soon as it is known.

    A head's output is z W_O, by a product of all heads with their matrices at once; the layer's
    output bias is an always-on constant. Where an AbsTopK or a norm stands between the heads and
    the stream, a head's output is its share through the live gate or scale, and the bias, which is
    gated with it, is shared evenly by the heads.
    """

    def __init__(self, model: HookedTransformer, graph: ComponentGraph, receive: Receive) -> None:
        self.captures: dict[str, Edit] = {}
        self._graph, self._receive = graph, receive
        self._inputs: dict[str, Tensor] = {}
        if graph.split_embeddings:
            self.captures["hook_embed"] = self._keep("embed")
            if "hook_pos_embed" in model.hook_dict:
                self.captures["hook_pos_embed"] = self._keep("pos")
        self.captures["blocks.0.hook_resid_pre"] = self._embedding
        for layer in range(graph.n_layers):
            _Heads(model, graph, layer, receive, self.captures)
            if not graph.attn_only:
                self.captures[f"blocks.{layer}.hook_mlp_out"] = self._mlp(layer)

    def _keep(self, name: str) -> Edit:
        def keep(value: Tensor) -> None:
            self._inputs[name] = value

        return keep

    def _embedding(self, stream: Tensor) -> None:
        if not self._graph.split_embeddings:
            self._receive(stream[None], slice(0, 1))
            return
        embed = self._inputs["embed"]
        pos = self._inputs.get("pos", torch.zeros_like(embed)).expand_as(embed)
        self._receive(torch.stack([embed, pos]), slice(0, 2))

    def _mlp(self, layer: int) -> Edit:
        columns = self._graph.mlp_writer(layer)
        return lambda out: self._receive(out[None], columns)


class _Heads:
    """The outputs of one layer's heads."""

    def __init__(
        self,
        model: HookedTransformer,
        graph: ComponentGraph,
        layer: int,
        receive: Receive,
        captures: dict[str, Edit],
    ) -> None:
        block: Any = model.blocks[layer]
        self._attn = block.attn
        self._columns, self._receive = graph.head_writers(layer), receive
        self._z: Tensor | None = None
        self._scale: Tensor | None = None
        self._norm: Any = None
        sparse_cfg = getattr(model, "sparse_cfg", None)
        self._gated = sparse_cfg is not None and sparse_cfg.has_abs_topk("attn_out")
        if model.cfg.use_normalization_before_and_after:
            self._norm, name = block.ln1_post, f"blocks.{layer}.ln1_post.hook_scale"
        elif model.cfg.original_architecture in POST_NORM_ARCHITECTURES:
            self._norm, name = block.ln1, f"blocks.{layer}.ln1.hook_scale"
        if self._norm is not None:
            captures[name] = self._keep_scale
        captures[f"blocks.{layer}.attn.hook_z"] = self._keep_z
        captures[f"blocks.{layer}.hook_attn_out"] = self._finish

    def _keep_z(self, z: Float[Tensor, "batch pos head d_head"]) -> None:
        self._z = z

    def _keep_scale(self, scale: Float[Tensor, "batch pos one"]) -> None:
        self._scale = scale

    def _finish(self, attn_out: Float[Tensor, "batch pos d_model"]) -> None:
        assert self._z is not None
        batch, pos, n_heads, _ = self._z.shape
        z = self._z.permute(2, 0, 1, 3).flatten(1, 2)  # [head, batch * pos, d_head]
        weight = self._attn.W_O.to(z.dtype)
        if self._gated or self._norm is not None:
            bias = (self._attn.b_O / n_heads).to(z.dtype)
            out = torch.baddbmm(bias.expand(n_heads, 1, -1), z, weight)
        else:
            out = torch.bmm(z, weight)
        out = out.unflatten(1, (batch, pos))
        if self._gated:
            out = out * (attn_out != 0)
        elif self._norm is not None:
            if isinstance(self._norm, LayerNorm):
                out = out - out.mean(-1, keepdim=True)
            out = out / self._scale
            if hasattr(self._norm, "w"):
                out = out * self._norm.w
        self._z = self._scale = None
        self._receive(out.to(attn_out.dtype), self._columns)
