"""Gates on nodes: gate * live + (1 - gate) * ablated.

Gates and their gradients keep their own precision, float32, in models that compute in bfloat16.
"""

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
    """gate * live + (1 - gate) * ablated, where None stands for zeros.

    Differentiable with respect to live values and gates.
    """
    gate = gate.to(live.device)
    return _GateFunction.apply(live, gate, None if ablated is None else like(ablated, live))  # type: ignore[return-value]


class _GateFunction(torch.autograd.Function):
    """With y = g x + (1 - g) a: dL/dx = g dL/dy, and dL/dg = sum of (x - a) dL/dy.

    Written out because autograd would sum dL/dg in the precision of the model.
    """

    @staticmethod
    def forward(ctx: Any, live: Tensor, gate: Tensor, ablated: Tensor | None) -> Tensor:
        ctx.save_for_backward(live if ctx.needs_input_grad[1] else None, gate, ablated)
        weight = gate.to(live.dtype)
        if ablated is None:
            return live * weight
        return torch.lerp(ablated.expand_as(live), live, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        live, gate, ablated = ctx.saved_tensors
        (grad,) = grad_outputs  # [*batch, width]
        grad_live = grad * gate.to(grad.dtype) if ctx.needs_input_grad[0] else None
        grad_gate = None
        if ctx.needs_input_grad[1]:
            products = grad * (live if ablated is None else live - ablated)
            # Over all axes that the gate broadcasts over: the last one, too, for a single gate.
            axes = tuple(range(products.ndim - 1)) + ((-1,) if len(gate) == 1 else ())
            grad_gate = products.sum(axes, dtype=gate.dtype).view(gate.shape)
        return grad_live, grad_gate, None
