"""Relevance patching: rules of relevance propagation in the place of some gradients.

RelP (Jafari et al. 2508.21258) is attribution patching with three changes to the backward pass:

- LN-rule (Ali et al. 2022): the scale of every norm is a constant.
- Identity-rule: an activation function passes on what it received times output / input, as if this
  ratio were a constant. So it does with an AbsTopK.
- Half-rule (Arras et al. 2019): both factors of a multiplicative gate get half of the gradient.

Linear maps keep their gradient (the 0-rule), and so does attention: the paper's AH-rule, which
takes attention patterns as constants, would score every edge into a query or a key zero.
"""

from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.hooks import Hooks


def add_relp_rules(model: HookedTransformer, edits: Hooks, captures: Hooks) -> None:
    """Add edits that leave all values as they are and change the gradients.

    Raises:
        ValueError: for a model with parts for which there is no rule.
    """
    cfg = model.cfg
    if cfg.num_experts or (cfg.act_fn or "").endswith("_ln"):
        part = "mixtures of experts" if cfg.num_experts else f"the activation {cfg.act_fn!r}"
        raise ValueError(f"RelP has no rule for {part}: pass relp=False.")
    for name in model.hook_dict:
        if name.endswith(".hook_scale"):
            edits.add(name, torch.Tensor.detach)
    anatomy = anatomy_of(model)
    if anatomy.attn_only:
        return
    for layer, block in enumerate(model.blocks):
        neurons = _Neurons(block.mlp, gated=bool(cfg.gated_mlp))
        captures.add(anatomy.neurons_pre(layer), neurons.keep_pre)
        if cfg.gated_mlp:
            captures.add(f"blocks.{layer}.mlp.hook_pre_linear", neurons.keep_linear)
        edits.add(anatomy.neurons(layer), neurons)


class _Neurons:
    """The activations of an MLP's neurons, by the identity-rule and the half-rule."""

    def __init__(self, mlp: Any, *, gated: bool) -> None:
        self._mlp, self._gated = mlp, gated
        self._pre: Tensor | None = None
        self._linear: Tensor | None = None

    def keep_pre(self, pre: Tensor) -> None:
        self._pre = pre

    def keep_linear(self, linear: Tensor) -> None:
        self._linear = linear

    def __call__(self, post: Tensor) -> Tensor:
        pre = self._pre
        assert pre is not None
        if not self._gated:
            return _with_gradient_of(pre * _ratio(post, pre), post)
        assert self._linear is not None
        product = pre * _ratio(self._mlp.act_fn(pre), pre) * self._linear
        return _with_gradient_of(0.5 * product, post)


@torch.no_grad()
def _ratio(after: Tensor, before: Tensor) -> Tensor:
    """after / before, and 0 where nothing came in."""
    return torch.where(before == 0, 0, after / before)


def _with_gradient_of(other: Tensor, value: Tensor) -> Tensor:
    return value.detach() + (other - other.detach())
