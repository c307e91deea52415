"""What a block makes of many residual streams before its heads project them, and back again."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.layer_norm_pre import LayerNormPre
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.rms_norm_pre import RMSNormPre

from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.patching.hookless import without_hooks
from sparse_lens.patching.hooks import Edit
from sparse_lens.patching.norms import FrozenScale, NormScales

Streams = Float[Tensor, "readers tokens d_model"]
Reads = Float[Tensor, "readers tokens d_in"]
OneOrAllStreams = Float[Tensor, "#readers tokens d_model"]


class Reader(ABC):
    """Norm, and whatever follows it, of many streams at once, without running any hooks.

    For a model with concatenated position embeddings, `captures` take these from the forward pass
    and must be attached; `tokens` are the indices of the streams' tokens in the batch.
    """

    captures: dict[str, Edit]

    @property
    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """Those that reading takes."""

    @abstractmethod
    def read(self, streams: Streams, tokens: slice) -> Reads:
        """What the block's heads project."""

    @abstractmethod
    def read_(self, streams: Streams, tokens: slice) -> Reads:
        """The same, without gradient; `streams` may be overwritten."""

    @abstractmethod
    def pull_back_(self, streams: OneOrAllStreams, gradients: Reads, tokens: slice) -> Streams:
        """Gradients at streams from gradients at what is read; both may be overwritten.

        A single stream serves the gradients of all readers.
        """

    def as_it_stands(self) -> "Reader":
        """One that later forward passes do not change."""
        return self


def attention_reader(
    model: HookedTransformer,
    layer: int,
    *,
    detached_scale: bool = False,
    scales: NormScales | None = None,
) -> Reader:
    """How the heads of a layer read the stream.

    Args:
        detached_scale: gradients take the norm's scale as a constant.
        scales: what norms divide by; None for the scale of each stream itself.
    """
    block: Any = model.blocks[layer]
    anatomy = anatomy_of(model)
    norms = {name: without_hooks(getattr(block, name)) for name in anatomy.attn_norms}
    frozen: list[FrozenScale] = []
    for name, norm in norms.items():
        hook_name = anatomy.norm_scale(layer, name)
        if scales and hook_name in scales:
            frozen.append(FrozenScale(scales[hook_name]))
            norm.hook_scale = frozen[-1]
        elif detached_scale:
            norm.hook_scale = _Detached()
    if not anatomy.attn_reads_norm:
        return _BlockReader(block, anatomy, norms, frozen)
    if not norms:
        return _ModuleReader(nn.Identity())
    (norm,) = norms.values()
    if type(norm) in _CENTRED and _is_plain(norm) and not frozen:
        return _NormReader(norm, centred=_CENTRED[type(norm)], detached_scale=detached_scale)
    return _ModuleReader(norm, frozen)


def fused_norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a norm does, by one of PyTorch's functions where there is one."""
    if type(norm) in _CENTRED and _is_plain(norm):
        reader = _NormReader(norm, centred=_CENTRED[type(norm)], detached_scale=False)
        return lambda streams: reader.read(streams, slice(None))
    return norm


_CENTRED: dict[type, bool] = {
    LayerNorm: True,
    LayerNormPre: True,
    RMSNorm: False,
    RMSNormPre: False,
}


def _is_plain(norm: Any) -> bool:
    """Whether all is computed in one precision of 32 bits or more."""
    dtypes = {norm.cfg.dtype, *(parameter.dtype for parameter in norm.parameters())}
    return len(dtypes) == 1 and norm.cfg.dtype.itemsize >= 4


class _NormReader(Reader):
    """LayerNorm or RMSNorm, with or without gain, in place and with its gradient in closed form."""

    def __init__(self, norm: Any, *, centred: bool, detached_scale: bool) -> None:
        self.captures = {}
        self._norm, self._centred, self._detached_scale = norm, centred, detached_scale

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(self._norm.parameters())

    def read(self, streams: Streams, tokens: slice) -> Reads:
        width, norm = streams.shape[-1:], self._norm
        gain = getattr(norm, "w", None)
        if self._centred:
            return F.layer_norm(streams, width, gain, getattr(norm, "b", None), norm.eps)
        return F.rms_norm(streams, width, gain, norm.eps)

    def read_(self, streams: Streams, tokens: slice) -> Reads:
        if self._centred:
            return self.read(streams, tokens)
        streams.mul_(self._centre_(streams))  # F.rms_norm is slow on large inputs
        return streams.mul_(self._norm.w) if hasattr(self._norm, "w") else streams

    def pull_back_(self, streams: OneOrAllStreams, gradients: Reads, tokens: slice) -> Streams:
        # With n = (x - mean) / scale and g the gradient at n, the gradient at x is
        # (g - mean(g) - n * mean(g * n)) / scale; an RMSNorm has no means of x and g.
        inverse_scale = self._centre_(streams)  # [readers or 1, tokens, 1]
        normed = streams.mul_(inverse_scale)
        if hasattr(self._norm, "w"):
            gradients.mul_(self._norm.w)
        along = _inner_products(gradients, normed) / normed.shape[-1]  # mean(g * n)
        if self._centred:
            gradients.sub_(gradients.mean(-1, keepdim=True))
        if self._detached_scale:
            return gradients.mul_(inverse_scale)
        return gradients.addcmul_(normed, along, value=-1).mul_(inverse_scale)

    def _centre_(self, streams: OneOrAllStreams) -> Float[Tensor, "#readers tokens one"]:
        """Centre in place where the norm does; 1 / scale."""
        if self._centred:
            streams.sub_(streams.mean(-1, keepdim=True))
        norms = torch.linalg.vector_norm(streams, dim=-1, keepdim=True)
        return norms.square_().div_(streams.shape[-1]).add_(self._norm.eps).rsqrt_()


def _inner_products(
    values: Float[Tensor, "readers tokens d_model"], others: OneOrAllStreams
) -> Float[Tensor, "readers tokens one"]:
    """Over channels; with a single row of others, without writing all their products."""
    if len(others) == 1:
        return torch.einsum("rtd,td->rt", values, others[0])[..., None]
    return torch.linalg.vecdot(values, others)[..., None]


class _ModuleReader(Reader):
    """Whatever a module does, with the gradient that autograd finds.

    Args:
        frozen: scales in the module that are those of the tokens that are read.
    """

    def __init__(self, module: nn.Module, frozen: Sequence[FrozenScale] = ()) -> None:
        self.captures = {}
        self._module, self._frozen = module, frozen

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(self._module.parameters())

    def read(self, streams: Streams, tokens: slice) -> Reads:
        self._look_at(tokens)
        return self._module(streams)

    def read_(self, streams: Streams, tokens: slice) -> Reads:
        return self.read(streams, tokens)

    def pull_back_(self, streams: OneOrAllStreams, gradients: Reads, tokens: slice) -> Streams:
        with torch.enable_grad():
            streams = streams.detach().expand(len(gradients), -1, -1).requires_grad_()
            return torch.autograd.grad(self.read(streams, tokens), streams, gradients)[0]

    def _look_at(self, tokens: slice) -> None:
        for scale in self._frozen:
            scale.tokens = tokens


class _BlockReader(_ModuleReader):
    """Norm, concatenated positions and AbsTopK, by the block's own `read_attn`."""

    def __init__(
        self,
        block: Any,
        anatomy: Anatomy,
        norms: Mapping[str, Any],
        frozen: Sequence[FrozenScale],
    ) -> None:
        copied = without_hooks(block)
        for name, norm in norms.items():
            setattr(copied, name, norm)
        super().__init__(copied, frozen)
        self._norms = list(norms.values())
        self._positions: Tensor | None = None
        if anatomy.concatenates_positions:
            _, positions = anatomy.embeddings
            self.captures[positions] = self._keep_positions

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(parameter for norm in self._norms for parameter in norm.parameters())

    def read(self, streams: Streams, tokens: slice) -> Reads:
        self._look_at(tokens)
        positions = None if self._positions is None else self._positions[tokens]
        return self._module.read_attn(streams, positions)  # type: ignore[operator]

    def as_it_stands(self) -> Reader:
        return copy.copy(self)

    def _keep_positions(self, positions: Float[Tensor, "batch pos d_pos"]) -> None:
        self._positions = positions.flatten(0, 1)


class _Detached(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value.detach()
