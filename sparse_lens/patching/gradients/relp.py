"""Relevance patching: rules of relevance propagation replace some gradients.

RelP (Jafari et al. 2508.21258) is attribution patching with three changes to the backward pass:

- LN-rule (Ali et al. 2022): the scale of every norm counts as a constant.
- Identity-rule: for an activation function y = f(x), the ratio y / x counts as a constant, so
  dL/dx = (y / x) dL/dy. The same holds for an AbsTopK.
- Half-rule (Arras et al. 2019): both factors of a multiplicative gate get half of their gradient.

Linear maps keep their gradient (the 0-rule), and so does attention: the paper's AH-rule, by which
attention patterns count as constants, would give every edge into a query or a key the score 0.
"""

from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.hooks import Hooks


def add_relp_rules(model: HookedTransformer, edits: Hooks, captures: Hooks) -> None:
    """Add edits that change the gradients by these rules, and no values.

    Raises:
        ValueError: for a model with parts that have no rule.
    """
    cfg = model.cfg
    if cfg.num_experts or (cfg.act_fn or "").endswith("_ln"):
        part = "mixtures of experts" if cfg.num_experts else f"the activation {cfg.act_fn!r}"
        raise ValueError(f"RelP has no rule for {part}: pass relp=False.")
    for name in model.hook_dict:
        if name.endswith(".hook_scale"):
            edits.add(name, torch.Tensor.detach)  # LN-rule
    anatomy = anatomy_of(model)
    if anatomy.attn_only:
        return
    for layer, block in enumerate(model.blocks):
        neurons = _Neurons(block.mlp, gated=bool(cfg.gated_mlp))
        captures.add(anatomy.neurons_pre(layer), neurons.capture_pre)
        if cfg.gated_mlp:
            captures.add(f"blocks.{layer}.mlp.hook_pre_linear", neurons.capture_linear)
        edits.add(anatomy.neurons(layer), neurons)


class _Neurons:
    """The edit of an MLP's neurons for the identity-rule and the half-rule.

    With x the neurons' inputs, y their outputs (behind an AbsTopK, if any), f the activation
    function and c constants: y is c x with c = y / x, and with a gate f(x) * l it is (c x) * l
    with c = f(x) / x, whose gradient is halved.
    """

    def __init__(self, mlp: Any, *, gated: bool) -> None:
        self._mlp, self._gated = mlp, gated
        self._pre: Tensor | None = None
        self._linear: Tensor | None = None

    def capture_pre(self, pre: Tensor) -> None:
        self._pre = pre

    def capture_linear(self, linear: Tensor) -> None:
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
def _ratio(y: Tensor, x: Tensor) -> Tensor:
    """y / x as a constant; 0 where x is 0."""
    return torch.where(x == 0, 0, y / x)


def _with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    """A tensor that equals `value` and has the gradient of `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())
