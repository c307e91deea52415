"""One store of what writers would change, mixed into readers; differentiable without copies.

Readers see the live stream plus `cut @ (ablated - live)`, a sum over all writers before them. The
differences of all writers stand in one preallocated store, below a row that holds the live stream,
so that one matrix product makes the streams of many readers. Autograd would save a copy of the
store for each of them; here the backward pass reads the store itself and recomputes the streams,
and a scalar token, handed from every write to every later mix, makes it run in reverse order.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_lens.patching.alignment import differences
from sparse_lens.patching.component.reading import Reader

# Streams of all readers of a layer at once would be many times the model's own activations.
_CHUNK_ELEMENTS = {"cpu": 2**21}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26


class Store:
    """Differences (ablated - live) of the writers so far, in the order in which they write."""

    def __init__(self, n_writers: int, like: Float[Tensor, "batch pos d_model"]) -> None:
        self._memory = _Memory(like.new_empty(1 + n_writers, like.shape[:2].numel(), like.shape[2]))
        self._token = like.new_zeros(())
        self._shape = like.shape
        self._written = 0

    def write(
        self, live: Float[Tensor, "writers batch pos d_model"], ablated: Tensor | None, where: slice
    ) -> None:
        """Note what the next writers would change; `ablated` broadcasts, None stands for zero."""
        rows = slice(1 + where.start, 1 + where.stop)
        if torch.is_grad_enabled() and (live.requires_grad or self._token.requires_grad):
            self._token = _Write.apply(live, self._token, self._memory, ablated, rows)  # type: ignore[assignment]
        else:
            self._memory.put(live, ablated, rows)
        self._written = where.stop

    def mix(
        self,
        cut: Float[Tensor, "readers writers"],
        stream: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "readers batch pos d_model"]:
        """The streams that readers see, given how much of each difference they take."""
        mixed = self._apply(_Mix, cut, stream)
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
        return self._apply(_Read, cut, stream, *frozen).unflatten(1, self._shape[:2])

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
        self._gradients: Tensor | None = None
        self._pass = -1
        self._scratch: dict[str, Tensor] = {}

    def put(self, live: Tensor, ablated: Tensor | None, rows: slice) -> None:
        differences(ablated, live, out=self.rows[rows].view(live.shape))

    def streams(self, cut: Tensor, stream: Tensor, tokens: slice, *, new: bool = False) -> Tensor:
        """`stream + cut @ differences` of some tokens, [readers, tokens, d_model]."""
        self.rows[0, tokens] = stream.reshape(self.rows.shape[1:])[tokens]
        coefficients = torch.cat([cut.new_ones(len(cut), 1), cut], 1).to(self.rows.dtype)
        rows = flat(self.rows[: coefficients.shape[1], tokens])
        shape = (len(cut), tokens.stop - tokens.start, self.rows.shape[2])
        out = rows.new_empty(shape) if new else self.scratch("streams", shape)
        torch.mm(coefficients, rows, out=flat(out))
        return out

    def scratch(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Memory that is overwritten the next time: fresh pages cost more than what they hold."""
        size = torch.Size(shape).numel()
        if name not in self._scratch or self._scratch[name].numel() < size:
            self._scratch[name] = self.rows.new_empty(size)
        return self._scratch[name][:size].view(shape)

    def gradients(self) -> Float[Tensor, "rows tokens d_model"]:
        """Of the differences, in this backward pass; what an earlier one left is dropped."""
        current = torch._C._current_graph_task_id()
        if self._gradients is None:
            self._gradients = torch.zeros_like(self.rows)
        elif self._pass != current:
            self._gradients.zero_()
        self._pass = current
        return self._gradients

    def pull_back(
        self, ctx: Any, cut: Tensor, at_streams: Tensor, tokens: slice, grad_cut: Tensor | None
    ) -> Tensor | None:
        """Spread gradients at readers' streams: to `cut`, the writers, and the live stream."""
        written = slice(1, 1 + cut.shape[1])
        if grad_cut is not None:
            grad_cut += flat(at_streams) @ flat(self.rows[written, tokens]).T
        if ctx.needs_input_grad[2]:
            gradients = flat(self.gradients()[written, tokens])
            gradients.addmm_(cut.T.to(gradients.dtype), flat(at_streams))
        return at_streams.sum(0) if ctx.needs_input_grad[1] else None


class _Write(torch.autograd.Function):
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
        gradient = ctx.memory.gradients()[ctx.rows].neg().view(ctx.shape)
        return gradient, grad_outputs[0], None, None, None


class _Mix(torch.autograd.Function):
    """Streams themselves, for readers that TransformerLens lets one intercept there."""

    @staticmethod
    def forward(ctx: Any, cut: Tensor, stream: Tensor, token: Tensor, memory: _Memory) -> Tensor:
        ctx.save_for_backward(cut)
        ctx.memory, ctx.shape = memory, stream.shape
        return memory.streams(cut, stream, slice(0, memory.rows.shape[1]), new=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (cut,) = ctx.saved_tensors
        memory: _Memory = ctx.memory
        grad_cut = torch.zeros_like(cut) if ctx.needs_input_grad[0] else None
        everything = slice(0, memory.rows.shape[1])
        at_streams = grad_outputs[0].contiguous()
        at_stream = memory.pull_back(ctx, cut, at_streams, everything, grad_cut)
        at_stream = None if at_stream is None else at_stream.view(ctx.shape)
        return grad_cut, at_stream, torch.zeros_like(memory.rows[0, 0, 0]), None


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
            streams = memory.streams(cut, stream, tokens)
            grad_out = grad_outputs[0][:, tokens]
            at_reads = memory.scratch("reads", (*streams.shape[:2], weight.shape[1]))
            torch.bmm(grad_out, weight.mT, out=at_reads)
            at_streams = ctx.reader.pull_back_(streams, at_reads, tokens).contiguous()
            part = memory.pull_back(ctx, cut, at_streams, tokens, grad_cut)
            if part is not None:
                at_stream[tokens] = part
        grad_stream = at_stream.view(stream.shape) if ctx.needs_input_grad[1] else None
        no_more = (None,) * 4
        return grad_cut, grad_stream, torch.zeros_like(memory.rows[0, 0, 0]), *no_more


def token_chunks(stream: Float[Tensor, "tokens d_model"], readers: int) -> Iterator[slice]:
    """Some tokens after the other, so that the streams of many readers take little memory."""
    limit = _CHUNK_ELEMENTS.get(stream.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
    step = max(1, limit // (readers * stream.shape[1]))
    for start in range(0, len(stream), step):
        yield slice(start, min(start + step, len(stream)))


def flat(rows: Float[Tensor, "rows tokens d_model"]) -> Float[Tensor, "rows features"]:
    """A view with one axis for tokens and channels."""
    return rows.view(len(rows), -1)
