"""One layer of a weight-sparse GPT: attention and MLP, with their reads and writes."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformerConfig
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.transformer_block import TransformerBlock
from transformer_lens.hook_points import HookPoint

from sparse_lens.models.attention import SparseAttention, abs_topk_at
from sparse_lens.models.config import SparseGPTConfig


class SparseMLP(MLP):
    """An MLP with AbsTopK on its neurons and on its output."""

    def __init__(self, cfg: HookedTransformerConfig, sparse_cfg: SparseGPTConfig) -> None:
        super().__init__(cfg)
        self.W_in = nn.Parameter(torch.empty(sparse_cfg.d_in, sparse_cfg.d_mlp, dtype=cfg.dtype))
        self.abs_topk_neuron = abs_topk_at(sparse_cfg, "mlp_neuron")
        self.abs_topk_out = abs_topk_at(sparse_cfg, "mlp_out")
        self.hook_input = HookPoint()  # [batch, pos, d_in]
        self.hook_out_pre = HookPoint()  # [batch, pos, d_model]

    def forward(self, x: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch pos d_model"]:
        """The output of the neurons, after AbsTopK."""
        pre = self.hook_pre(F.linear(self.hook_input(x), self.W_in.T, self.b_in))
        post = self.hook_post(self.abs_topk_neuron(self.act_fn(pre)))
        return self.abs_topk_out(self.hook_out_pre(F.linear(post, self.W_out.T, self.b_out)))


class SparseBlock(TransformerBlock):
    """Attention, then MLP, each reading norm -> concatenated positions -> AbsTopK.

    After each sublayer's output is added, the residual activation and then an AbsTopK may act on
    the stream itself.
    """

    def __init__(
        self, cfg: HookedTransformerConfig, sparse_cfg: SparseGPTConfig, layer: int
    ) -> None:
        nn.Module.__init__(self)  # the stock constructor would build the stock parts
        self.cfg = cfg
        self.sparse_cfg = sparse_cfg
        norm = RMSNorm if sparse_cfg.rms_norm else LayerNorm
        self.ln1, self.ln2 = norm(cfg), norm(cfg)
        if sparse_cfg.d_pos_emb is not None:
            self.ln_p1 = norm(cfg, length=sparse_cfg.d_pos_emb)
            self.ln_p2 = norm(cfg, length=sparse_cfg.d_pos_emb)
        self.attn = SparseAttention(cfg, sparse_cfg, layer)  # type: ignore[assignment]
        self.mlp = SparseMLP(cfg, sparse_cfg)
        self.abs_topk_attn_in = abs_topk_at(sparse_cfg, "attn_in")
        self.abs_topk_mlp_in = abs_topk_at(sparse_cfg, "mlp_in")
        self.abs_topk_resid_mid = abs_topk_at(sparse_cfg, "resid_post_attn")
        self.abs_topk_resid_post = abs_topk_at(sparse_cfg, "resid_post_mlp")
        self.hook_attn_in = HookPoint()  # [batch, pos, head_index, d_model], under use_attn_in
        self.hook_q_input = HookPoint()  # the same, under use_split_qkv_input
        self.hook_k_input = HookPoint()
        self.hook_v_input = HookPoint()
        self.hook_mlp_in = HookPoint()  # [batch, pos, d_model], under use_hook_mlp_in
        self.hook_attn_out = HookPoint()  # [batch, pos, d_model]
        self.hook_mlp_out = HookPoint()  # [batch, pos, d_model]
        self.hook_resid_pre = HookPoint()  # [batch, pos, d_model]
        self.hook_resid_mid = HookPoint()  # [batch, pos, d_model]
        self.hook_resid_post = HookPoint()  # [batch, pos, d_model]

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        shortformer_pos_embed: Float[Tensor, "batch pos d_pos_emb"] | None = None,
        past_kv_cache_entry: Any = None,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the layer; concatenated positions come as `shortformer_pos_embed`."""
        resid_pre = self.hook_resid_pre(resid_pre)
        attn_out = self.attn(
            *self._attention_inputs(resid_pre, shortformer_pos_embed),
            past_kv_cache_entry=past_kv_cache_entry,
            attention_mask=attention_mask,
        )
        attn_out = self.hook_attn_out(attn_out)
        resid_mid = self.hook_resid_mid(self.after_attn(resid_pre, attn_out))
        stream = self.hook_mlp_in(resid_mid.clone()) if self.cfg.use_hook_mlp_in else resid_mid
        mlp_out = self.apply_mlp(self.read_mlp(stream, shortformer_pos_embed))
        return self.hook_resid_post(self.after_mlp(resid_mid, mlp_out))

    def read_attn(
        self, stream: Float[Tensor, "*batch d_model"], positions: Tensor | None
    ) -> Float[Tensor, "*batch d_in"]:
        """The input of attention's projections: the stream after norm, positions and AbsTopK."""
        normed = self.ln1(stream)
        if positions is not None:
            normed = _concatenate(normed, self.ln_p1(positions))
        return self.abs_topk_attn_in(normed)

    def read_mlp(
        self, stream: Float[Tensor, "*batch d_model"], positions: Tensor | None
    ) -> Float[Tensor, "*batch d_in"]:
        """The input of the MLP's first projection: the stream after norm, positions and AbsTopK."""
        normed = self.ln2(stream)
        if positions is not None:
            normed = _concatenate(normed, self.ln_p2(positions))
        return self.abs_topk_mlp_in(normed)

    def after_attn(
        self, stream: Float[Tensor, "*batch d_model"], attn_out: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The stream after attention has written to it."""
        return self.abs_topk_resid_mid(self._residual_activation(stream + attn_out))

    def after_mlp(
        self, stream: Float[Tensor, "*batch d_model"], mlp_out: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The stream after the MLP has written to it."""
        return self.abs_topk_resid_post(self._residual_activation(stream + mlp_out))

    def _attention_inputs(
        self, resid_pre: Float[Tensor, "batch pos d_model"], positions: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The inputs of q, k and v: the same tensor three times unless inputs are split."""
        if not (self.cfg.use_attn_in or self.cfg.use_split_qkv_input):
            read = self.read_attn(resid_pre, positions)
            return read, read, read
        stream = repeat(
            resid_pre, "batch pos d_model -> batch pos head d_model", head=self.cfg.n_heads
        )
        if positions is not None:
            positions = positions[:, :, None]  # [batch, pos, 1, d_pos_emb]
        if self.cfg.use_attn_in:
            stream = self.hook_attn_in(stream.clone())
        if not self.cfg.use_split_qkv_input:
            read = self.read_attn(stream, positions)
            return read, read, read
        return (
            self.read_attn(self.hook_q_input(stream.clone()), positions),
            self.read_attn(self.hook_k_input(stream.clone()), positions),
            self.read_attn(self.hook_v_input(stream.clone()), positions),
        )

    def _residual_activation(self, stream: Tensor) -> Tensor:
        return F.relu(stream) if self.sparse_cfg.residual_activation_type == "relu" else stream


def _concatenate(
    stream: Float[Tensor, "*batch d_model"], positions: Tensor
) -> Float[Tensor, "*batch d_in"]:
    return torch.cat([stream, positions.expand(*stream.shape[:-1], -1)], dim=-1)
