"""What common modules of TransformerLens compute, without what they do around it."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.components.unembed import Unembed

from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.patching.component.reading import fused_norm
from sparse_lens.patching.hookless import without_hooks

Unembedding = Callable[[Float[Tensor, "variants n d_model"]], Float[Tensor, "variants n vocab"]]
Feedforward = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"]]


def plain_mlp(block: Any, anatomy: Anatomy) -> Feedforward | None:
    """A block's MLP on its normed stream; None if it is more than two products."""
    mlp = block.mlp
    is_plain = (
        type(mlp) is MLP
        and not block.cfg.is_layer_norm_activation()
        and anatomy.mlp_post_norm is None
    )
    if not is_plain:
        return None

    def apply(normed: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        hidden = mlp.act_fn(torch.addmm(mlp.b_in, normed.flatten(0, 1), mlp.W_in))
        return torch.addmm(mlp.b_out, hidden, mlp.W_out).view(normed.shape)

    return apply


def plain_unembedding(model: HookedTransformer) -> Unembedding | None:
    """The last norm and the product with W_U, or None where the model does more than that.

    TransformerLens's module copies all of W_U in each pass. No hook fires.
    """
    module: Any = model.unembed
    is_plain = (
        type(model) is HookedTransformer
        and type(module) is Unembed
        and module.W_U.dtype.itemsize >= 4
        and not anatomy_of(model).caps_logits
    )
    if not is_plain:
        return None
    has_norm = model.cfg.normalization_type is not None
    norm = fused_norm(without_hooks(model.ln_final)) if has_norm else nn.Identity()

    def unembed(
        streams: Float[Tensor, "variants n d_model"],
    ) -> Float[Tensor, "variants n vocab"]:
        logits = torch.addmm(module.b_U, norm(streams).flatten(0, 1), module.W_U)
        return logits.view(*streams.shape[:2], -1)

    return unembed
