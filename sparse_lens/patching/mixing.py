"""One store of what writers would change, mixed into readers; differentiable without copies.

Readers see the live stream plus `cut @ (ablated - live)`, a sum over all writers before them. The
differences of all writers stand in one preallocated store. Autograd would save a copy of it for
each reader; here the backward pass reads the store itself, and a scalar token, handed from every
write to every later mix, makes sure that it runs in reverse order.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Store:
    """Differences (ablated - live) of the writers so far, `[n_writers, batch * pos * d_model]`."""

    def __init__(self, n_writers: int, like: Float[Tensor, "batch pos d_model"]) -> None:
        self.differences = like.new_zeros(n_writers, like.numel())
        self.gradients: Tensor | None = None
        self.token = like.new_zeros(())
        self.written = 0

    def write(self, live: Tensor, ablated: Tensor | None, columns: slice) -> None:
        """Note what the writers in `columns` would change; `live` is `[writers, batch, pos, d]`.

        `ablated` broadcasts to `live`; None stands for zero.
        """
        if torch.is_grad_enabled() and (live.requires_grad or self.token.requires_grad):
            self.token = _Write.apply(live, self.token, self, ablated, columns)
        else:
            self._put(live, ablated, columns)
        self.written = columns.stop

    def mix(self, cut: Float[Tensor, "readers writers"]) -> Float[Tensor, "readers features"]:
        """`cut @ differences` over the writers written so far."""
        cut = cut[:, : self.written]
        if torch.is_grad_enabled() and (cut.requires_grad or self.token.requires_grad):
            return _Mix.apply(cut.to(self.differences.dtype), self.token, self)
        return cut.to(self.differences.dtype) @ self.differences[: self.written]

    def _put(self, live: Tensor, ablated: Tensor | None, columns: slice) -> None:
        place = self.differences[columns].view(live.shape)
        if ablated is None:
            torch.neg(live.detach(), out=place)
        else:
            torch.sub(ablated.to(live.dtype), live.detach(), out=place)

    def _gradients(self) -> Tensor:
        if self.gradients is None:
            self.gradients = torch.zeros_like(self.differences)
        return self.gradients


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, live: Tensor, token: Tensor, store: Store, ablated: Tensor | None, columns: slice
    ) -> Tensor:
        store._put(live, ablated, columns)
        ctx.store, ctx.columns, ctx.shape = store, columns, live.shape
        return token.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        collected = ctx.store._gradients()[ctx.columns]
        gradient = collected.neg().view(ctx.shape)
        collected.zero_()  # a second backward pass through the same graph starts afresh
        return gradient, grad_outputs[0], None, None, None


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cut: Tensor, token: Tensor, store: Store) -> Tensor:
        ctx.save_for_backward(cut)
        ctx.store, ctx.written = store, store.written
        return cut @ store.differences[: store.written]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (cut,) = ctx.saved_tensors
        (grad,) = grad_outputs
        differences = ctx.store.differences[: ctx.written]
        if ctx.needs_input_grad[1]:
            ctx.store._gradients()[: ctx.written].addmm_(cut.T, grad)
        grad_cut = grad @ differences.T if ctx.needs_input_grad[0] else None
        return grad_cut, torch.zeros_like(ctx.store.token), None
