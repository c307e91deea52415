"""One store of what ablating each writer would change, mixed into the streams that readers see.

    streams = stream + cut @ (ablated - live)        [readers, batch, pos, d_model]

`stream` is the live residual stream, `cut` [readers, writers] is 1 - m for the mask m of an edge,
and the differences `ablated - live` of all writers so far stand in one preallocated tensor. Its row
0 is left for the live stream, so that one matrix product makes the streams of many readers:

    [1 | cut] @ [stream; ablated - live]    of [readers, 1 + writers] and [1 + writers, features]

with `features = batch * pos * d_model`.

Autograd would save a copy of the store for every mix. Here the backward pass reads the store itself
and recomputes the streams; gradients of the differences are summed in one tensor of the store's
shape. A **token** keeps the order: a scalar that every write returns and every later write and mix
takes, so that autograd comes to a write only when all mixes after it have added to that sum.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_lens.patching.alignment import differences
from sparse_lens.patching.component.reading import Reader
from sparse_lens.patching.memory import Scratch, chunks

# Streams of all readers of a layer at once would be many times the model's own activations.
_MOST_ON_CPU = 2**21


class Store:
    """Differences (ablated - live) of the writers so far, in the order in which they write."""

    def __init__(self, n_writers: int, like: Float[Tensor, "batch pos d_model"]) -> None:
        n_tokens, d_model = like.shape[:2].numel(), like.shape[2]
        self._memory = _Memory(like.new_empty(1 + n_writers, n_tokens, d_model))
        self._token = like.new_zeros(())
        self._shape = like.shape
        self._written = 0

    def write(
        self,
        live: Float[Tensor, "writers batch pos d_model"],
        ablated: Tensor | None,
        indices: slice,
    ) -> None:
        """Note what ablating the next writers would change.

        Args:
            ablated: broadcasts to `live`; None stands for zero.
            indices: of these writers among those that the store is for.
        """
        rows = slice(1 + indices.start, 1 + indices.stop)  # row 0 is the live stream's
        if torch.is_grad_enabled() and (live.requires_grad or self._token.requires_grad):
            self._token = _Write.apply(live, self._token, self._memory, ablated, rows)  # type: ignore[assignment]
        else:
            self._memory.put(live, ablated, rows)
        self._written = indices.stop

    def mix(
        self,
        cut: Float[Tensor, "readers writers"],
        stream: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "readers batch pos d_model"]:
        """The streams that readers see, given how much of each difference they take."""
        mixed = self._apply(_Mix, cut, stream)  # [readers, tokens, d_model]
        return mixed.view(-1, *self._shape)

    def read(
        self,
        cut: Float[Tensor, "readers writers"],
        stream: Float[Tensor, "batch pos d_model"],
        reader: Reader,
        weight: Float[Tensor, "readers d_in d_head"],
        bias: Float[Tensor, "readers d_head"],
    ) -> Float[Tensor, "readers batch pos d_head"]:
        """What heads project out of the streams that they see; no gradient for the weights."""
        frozen = (reader.as_it_stands(), weight.detach(), bias.detach())
        out = self._apply(_Read, cut, stream, *frozen)  # [readers, tokens, d_head]
        return out.unflatten(1, self._shape[:2])

    @property
    def written(self) -> int:
        """How many writers have written."""
        return self._written

    def _apply(self, function: Any, cut: Tensor, stream: Tensor, *more: Any) -> Tensor:
        return function.apply(cut[:, : self._written], stream, self._token, self._memory, *more)


class _Memory:
    """The tensors of a store. Autograd's nodes hold this, not the store, which holds them."""

    def __init__(self, rows: Float[Tensor, "rows tokens d_model"]) -> None:
        self.rows = rows
        self.scratch = Scratch(rows)
        self._gradients: Tensor | None = None
        self._backward_pass = -1

    @property
    def all_tokens(self) -> slice:
        return slice(0, self.rows.shape[1])

    def put(self, live: Tensor, ablated: Tensor | None, rows: slice) -> None:
        differences(ablated, live, out=self.rows[rows].view(live.shape))

    def streams(
        self,
        cut: Float[Tensor, "readers writers"],
        stream: Float[Tensor, "batch pos d_model"],
        tokens: slice,
        *,
        new: bool = False,
    ) -> Float[Tensor, "readers tokens d_model"]:
        """`stream + cut @ differences` of some tokens.

        Args:
            new: in memory of its own, which the next call does not overwrite.
        """
        self.rows[0, tokens] = stream.flatten(0, 1)[tokens]
        # A 1 for the live stream. In the precision of the streams: masks may have a finer one.
        coefficients = torch.cat([cut.new_ones(len(cut), 1), cut], 1).to(self.rows.dtype)
        rows = flat(self.rows[: coefficients.shape[1], tokens])  # [1 + writers, tokens * d_model]
        shape = (len(cut), tokens.stop - tokens.start, self.rows.shape[2])
        out = rows.new_empty(shape) if new else self.scratch("streams", shape)
        torch.mm(coefficients, rows, out=flat(out))
        return out

    def gradients(self) -> Float[Tensor, "rows tokens d_model"]:
        """Of the differences, in this backward pass; what an earlier one left is dropped.

        An earlier one may have stopped before it came to the writers.
        """
        current = torch._C._current_graph_task_id()
        if self._gradients is None:
            self._gradients = torch.zeros_like(self.rows)
        elif self._backward_pass != current:
            self._gradients.zero_()
        self._backward_pass = current
        return self._gradients

    def pull_back(
        self,
        ctx: Any,
        cut: Float[Tensor, "readers writers"],
        at_streams: Float[Tensor, "readers tokens d_model"],
        tokens: slice,
        grad_cut: Float[Tensor, "readers writers"] | None,
    ) -> Float[Tensor, "tokens d_model"] | None:
        """Spread gradients at readers' streams: to `cut`, the writers, and the live stream.

        From streams = stream + cut @ D, with G = dL/dstreams and D, G flat:
        dL/dcut = G D^T, dL/dD = cut^T G, and dL/dstream is the sum of G over readers.
        """
        written = slice(1, 1 + cut.shape[1])
        if grad_cut is not None:
            grad_cut += flat(at_streams) @ flat(self.rows[written, tokens]).T
        if ctx.needs_input_grad[2]:  # the token's: what some writer put in needs a gradient
            gradients = flat(self.gradients()[written, tokens])
            gradients.addmm_(cut.T.to(gradients.dtype), flat(at_streams))
        return at_streams.sum(0) if ctx.needs_input_grad[1] else None


class _Write(torch.autograd.Function):
    """Writers' outputs enter the store; what comes out is the token for later mixes."""

    @staticmethod
    def forward(
        ctx: Any, live: Tensor, token: Tensor, memory: _Memory, ablated: Tensor | None, rows: slice
    ) -> Tensor:
        memory.put(live, ablated, rows)
        ctx.memory, ctx.rows, ctx.shape = memory, rows, live.shape
        return token.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # The difference is ablated - live, so its gradient reaches `live` with a minus.
        gradient = ctx.memory.gradients()[ctx.rows].neg().view(ctx.shape)
        return gradient, grad_outputs[0], None, None, None


class _Mix(torch.autograd.Function):
    """Streams themselves, for readers that TransformerLens lets one intercept there."""

    @staticmethod
    def forward(ctx: Any, cut: Tensor, stream: Tensor, token: Tensor, memory: _Memory) -> Tensor:
        ctx.save_for_backward(cut)
        ctx.memory, ctx.shape = memory, stream.shape
        return memory.streams(cut, stream, memory.all_tokens, new=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (cut,) = ctx.saved_tensors
        memory: _Memory = ctx.memory
        grad_cut = torch.zeros_like(cut) if ctx.needs_input_grad[0] else None
        at_streams = grad_outputs[0].contiguous()  # [readers, tokens, d_model]
        at_stream = memory.pull_back(ctx, cut, at_streams, memory.all_tokens, grad_cut)
        at_stream = None if at_stream is None else at_stream.view(ctx.shape)
        return grad_cut, at_stream, _token_like(memory), None


class _Read(torch.autograd.Function):
    """Streams, read and projected, some tokens at a time; the streams are never all there."""

    @staticmethod
    def forward(
        ctx: Any,
        cut: Tensor,
        stream: Tensor,
        token: Tensor,
        memory: _Memory,
        reader: Reader,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(cut, stream, weight)
        ctx.memory, ctx.reader = memory, reader
        out = bias.new_empty(len(cut), memory.rows.shape[1], bias.shape[1])
        for tokens in token_chunks(stream.flatten(0, 1), len(cut)):
            read = reader.read_(memory.streams(cut, stream, tokens), tokens)
            out[:, tokens] = torch.baddbmm(bias[:, None], read, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        cut, stream, weight = ctx.saved_tensors
        memory: _Memory = ctx.memory
        grad_cut = torch.zeros_like(cut) if ctx.needs_input_grad[0] else None
        at_stream = memory.rows.new_empty(memory.rows.shape[1:])
        for tokens in token_chunks(stream.flatten(0, 1), len(cut)):
            streams = memory.streams(cut, stream, tokens)  # again, rather than kept
            at_out = grad_outputs[0][:, tokens]  # [readers, tokens, d_head]
            at_reads = memory.scratch("reads", (*streams.shape[:2], weight.shape[1]))
            torch.bmm(at_out, weight.mT, out=at_reads)  # [readers, tokens, d_in]
            at_streams = ctx.reader.pull_back_(streams, at_reads, tokens).contiguous()
            part = memory.pull_back(ctx, cut, at_streams, tokens, grad_cut)
            if part is not None:
                at_stream[tokens] = part
        grad_stream = at_stream.view(stream.shape) if ctx.needs_input_grad[1] else None
        no_more = (None,) * 4  # memory, reader, weight, bias
        return grad_cut, grad_stream, _token_like(memory), *no_more


def token_chunks(stream: Float[Tensor, "tokens d_model"], readers: int) -> Iterator[slice]:
    """Some tokens after the other, so that the streams of many readers take little memory."""
    elements = readers * stream.shape[1]
    return chunks(len(stream), elements=elements, device=stream.device, most_on_cpu=_MOST_ON_CPU)


def flat(rows: Float[Tensor, "rows tokens d_model"]) -> Float[Tensor, "rows features"]:
    """A view with one axis for tokens and channels."""
    return rows.view(len(rows), -1)


def _token_like(memory: _Memory) -> Tensor:
    """The gradient of a token, which has none: zero in the dtype of the store."""
    return torch.zeros_like(memory.rows[0, 0, 0])
