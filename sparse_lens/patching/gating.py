"""x becomes gate * x + (1 - gate) * ablated, with gates that stay in their own precision."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_lens.patching.alignment import like


def gate_values(
    live: Float[Tensor, "*batch width"],
    gate: Float[Tensor, "#width"],
    ablated: Tensor | None,
) -> Float[Tensor, "*batch width"]:
    """Live values where the gate is 1, ablated ones (None: zeros) where it is 0.

    Gradients reach the live values and the gate.
    """
    gate = gate.to(live.device)
    return _Gate.apply(live, gate, None if ablated is None else like(ablated, live))  # type: ignore[return-value]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, live: Tensor, gate: Tensor, ablated: Tensor | None) -> Tensor:
        ctx.save_for_backward(live if ctx.needs_input_grad[1] else None, gate, ablated)
        share = gate.to(live.dtype)
        if ablated is None:
            return live * share
        return torch.lerp(ablated.expand_as(live), live, share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        live, gate, ablated = ctx.saved_tensors
        (grad,) = grad_outputs
        grad_live = grad * gate.to(grad.dtype) if ctx.needs_input_grad[0] else None
        grad_gate = None
        if ctx.needs_input_grad[1]:
            change = grad * (live if ablated is None else live - ablated)
            axes = tuple(range(change.ndim - 1)) + ((-1,) if len(gate) == 1 else ())
            grad_gate = change.sum(axes, dtype=gate.dtype).view(gate.shape)
        return grad_live, grad_gate, None
