"""Parts of a model on which no hook fires, to be run on other batches than the model's own."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from sparse_lens.graphs.component import LETTERS

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def bare(module: nn.Module) -> Any:
    """A copy of a module, and of all within it, that shares the parameters and has no hooks."""
    twin = copy.copy(module)
    for name in _HOOKS:
        setattr(twin, name, OrderedDict())
    twin._parameters = dict(module._parameters)
    twin._buffers = dict(module._buffers)
    twin._modules = {
        name: nn.Identity() if isinstance(child, HookPoint) else child and bare(child)
        for name, child in module._modules.items()
    }
    return twin


class HeadsAlone:
    """Attention of some heads of a layer, without what comes before and after it.

    It is TransformerLens's own module with queries, keys and values put in at their hook points.
    All that it would multiply with the residual stream has no width.
    """

    def __init__(self, attn: Any, heads: Int[Tensor, " chosen"]) -> None:
        n, d_head = len(heads), attn.W_Q.shape[2]
        alone = bare(attn)
        alone.cfg = copy.copy(attn.cfg)
        alone.cfg.n_heads = n
        alone.cfg.use_attn_result = False
        alone.cfg.use_attn_in = alone.cfg.use_split_qkv_input = False
        if hasattr(attn, "repeat_kv_heads"):
            alone.cfg.ungroup_grouped_query_attention, alone.repeat_kv_heads = True, 1
        empty, parameters = attn.W_Q.new_empty, alone._parameters
        for name in parameters:
            if name.lstrip("_") in ("W_Q", "W_K", "W_V"):
                parameters[name] = empty(n, 0, d_head)
            elif name.lstrip("_") in ("b_Q", "b_K", "b_V"):
                parameters[name] = empty(n, d_head)
        parameters["W_O"], parameters["b_O"] = empty(n, d_head, 0), empty(0)
        if "sinks" in parameters:
            parameters["sinks"] = attn.sinks[heads]
        self._put = {letter: _Put() for letter in LETTERS}
        self._z = _Keep()
        alone._modules.update({f"hook_{letter}": put for letter, put in self._put.items()})
        alone._modules["hook_z"] = self._z
        self._attn, self._heads, self._n_heads = alone, heads, attn.cfg.n_heads

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, *, attention_mask: Tensor | None
    ) -> Float[Tensor, "batch pos chosen d_head"]:
        """What each head reads out, from [batch, pos, chosen, d_head] each."""
        for letter, value in zip(LETTERS, (queries, keys, values), strict=True):
            self._put[letter].value = value
        if self._attn.cfg.positional_embedding_type == "alibi":
            self._attn.alibi = self._alibi_bias(queries.shape[1], queries.device)
        nothing = queries.new_empty(*queries.shape[:2], 0)
        self._attn(nothing, nothing, nothing, attention_mask=attention_mask)
        return self._z.value

    def _alibi_bias(self, pos: int, device: torch.device) -> Float[Tensor, "chosen pos pos"]:
        """The slopes of a head depend on how many heads there are."""
        bias = self._attn.create_alibi_bias(self._n_heads, pos, device)
        return bias.to(device)[self._heads]


class _Put(nn.Module):
    """A hook point that puts in a value."""

    value: Tensor

    def forward(self, found: Tensor) -> Tensor:
        return self.value


class _Keep(nn.Module):
    """A hook point that keeps what passes it."""

    value: Tensor

    def forward(self, found: Tensor) -> Tensor:
        self.value = found
        return found
