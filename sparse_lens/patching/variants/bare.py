"""Parts of a model on which no hook fires, to be run on other batches than the model's own."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NOTHING = nn.Identity()


def bare(module: nn.Module) -> Any:
    """A copy of a module, and of all within it, that shares the parameters and has no hooks."""
    twin = copy.copy(module)
    own: dict[str, Any] = {name: OrderedDict() for name in _HOOKS}
    own["_parameters"], own["_buffers"] = dict(module._parameters), dict(module._buffers)
    own["_modules"] = {
        name: _NOTHING if isinstance(child, HookPoint) else child and bare(child)
        for name, child in module._modules.items()
    }
    twin.__dict__.update(own)  # an assignment looks for parameters among them
    return twin


class HeadsAlone:
    """Attention of some heads of a layer, without the projections before and after it.

    It is TransformerLens's own module; queries, keys and values take the place of its inputs.
    """

    def __init__(self, attn: Any, heads: Int[Tensor, " chosen"]) -> None:
        n, d_head = len(heads), attn.W_Q.shape[2]
        alone = bare(attn)
        alone.cfg = copy.copy(attn.cfg)
        alone.cfg.n_heads = n
        alone.cfg.use_attn_result = False
        alone.cfg.ungroup_grouped_query_attention = True
        alone.calculate_qkv_matrices = self._normed
        empty = attn.W_O.new_empty
        alone._parameters.update(W_O=empty(n, d_head, 0), b_O=empty(0))
        if "sinks" in alone._parameters:
            alone._parameters["sinks"] = attn.sinks[heads]
        self._z = alone._modules["hook_z"] = _Keep()
        self._attn, self._heads, self._n_heads = alone, heads, attn.cfg.n_heads

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, *, attention_mask: Tensor | None
    ) -> Float[Tensor, "batch pos chosen d_head"]:
        """What each head reads out, from [batch, pos, chosen, d_head] each."""
        if self._attn.cfg.positional_embedding_type == "alibi":
            self._attn.alibi = self._alibi_bias(queries.shape[1], queries.device)
        self._attn(queries, keys, values, attention_mask=attention_mask)
        return self._z.value

    def _normed(
        self, queries: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All that TransformerLens does between projecting and attending in each head by itself."""
        attn = self._attn
        if not attn.cfg.use_qk_norm:
            return queries, keys, values
        normed = (attn._apply_qk_norm(queries, attn.q_norm), attn._apply_qk_norm(keys, attn.k_norm))
        return *normed, values

    def _alibi_bias(self, pos: int, device: torch.device) -> Float[Tensor, "chosen pos pos"]:
        """The slopes of a head depend on how many heads there are."""
        bias = self._attn.create_alibi_bias(self._n_heads, pos, device)
        return bias.to(device)[self._heads]


class _Keep(nn.Module):
    """A hook point that keeps what passes it."""

    value: Tensor

    def forward(self, found: Tensor) -> Tensor:
        self.value = found
        return found
