"""What a block makes of the residual stream before it projects: norm, and what follows it."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from sparse_lens.patching.hooks import Edit

Read = Callable[[Float[Tensor, "readers batch pos d_model"]], Float[Tensor, "readers batch pos d"]]


class AttentionReader:
    """Applies a block's reading of the stream to many streams at once.

    No hook fires, so a cache taken meanwhile is not disturbed. A model with concatenated position
    embeddings has `capture`s to be attached, which fetch these during the forward pass.
    """

    def __init__(self, model: HookedTransformer, layer: int) -> None:
        block = model.blocks[layer]
        self.captures: dict[str, Edit] = {}
        self._positions: Tensor | None = None
        sparse_cfg = getattr(model, "sparse_cfg", None)
        if sparse_cfg is not None:
            bare = without_hooks(block)
            bare.ln1 = without_hooks(block.ln1)
            if sparse_cfg.d_pos_emb is not None:
                bare.ln_p1 = without_hooks(block.ln_p1)
                self.captures["hook_pos_embed"] = self._keep_positions
            self._read = lambda streams: bare.read_attn(streams, self._positions)
        elif model.cfg.original_architecture in POST_NORM_ARCHITECTURES:
            self._read = lambda streams: streams
        else:
            self._read = fused_norm(block.ln1)

    def __call__(
        self, streams: Float[Tensor, "readers batch pos d_model"]
    ) -> Float[Tensor, "readers batch pos d"]:
        return self._read(streams)

    def pull_back(
        self,
        stream: Float[Tensor, "batch pos d_model"],
        gradients: Float[Tensor, "readers batch pos d"],
    ) -> Float[Tensor, "readers batch pos d_model"]:
        """Gradients at the stream from gradients at what several readers make of the same one."""
        with torch.enable_grad():
            streams = stream.expand(len(gradients), *stream.shape).requires_grad_()
            return torch.autograd.grad(self(streams), streams, gradients)[0]

    def _keep_positions(self, positions: Tensor) -> None:
        self._positions = positions


def fused_norm(norm: nn.Module) -> Read:
    """A norm as one fused operation where torch has it, else the module itself without hooks."""
    if not isinstance(norm, nn.Identity) and next(norm.parameters(), None) is not None:
        dtype = next(norm.parameters()).dtype
    else:
        dtype = None
    if dtype is not None and dtype.itemsize < 4:
        return without_hooks(norm)  # computes in float32 in its own way
    if type(norm) is LayerNorm:
        return lambda x: F.layer_norm(x, x.shape[-1:], norm.w, norm.b, norm.eps)
    if type(norm) is LayerNormPre and norm.cfg.dtype.itemsize >= 4:
        return lambda x: F.layer_norm(x, x.shape[-1:], eps=norm.eps)
    if type(norm) is RMSNorm:
        return lambda x: F.rms_norm(x, x.shape[-1:], norm.w, norm.eps)
    if type(norm) is RMSNormPre and norm.cfg.dtype.itemsize >= 4:
        return lambda x: F.rms_norm(x, x.shape[-1:], eps=norm.eps)
    return without_hooks(norm)


def without_hooks(module: nn.Module) -> nn.Module:
    """A shallow copy that shares the parameters, and whose own hook points do nothing."""
    bare = copy.copy(module)
    bare._modules = {
        name: nn.Identity() if name.startswith("hook_") else child
        for name, child in module._modules.items()
    }
    return bare
