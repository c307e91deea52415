"""From the last stream to logits, without what TransformerLens does around it."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components.unembed import Unembed

from sparse_lens.patching.component.reading import fused_norm


Unembedding = Callable[[Float[Tensor, "variants n d_model"]], Float[Tensor, "variants n vocab"]]


def plain_unembedding(model: Any) -> Unembedding | None:
    """The last norm and the product with W_U, or None where the model does more than that.

    TransformerLens's module copies all of W_U in each pass.
    """
    module = model.unembed
    is_plain = (
        type(model) is HookedTransformer
        and type(module) is Unembed
        and module.W_U.dtype.itemsize >= 4
        and model.cfg.output_logits_soft_cap <= 0
    )
    if not is_plain:
        return None
    has_norm = model.cfg.normalization_type is not None
    norm = fused_norm(model.ln_final) if has_norm else nn.Identity()

    def unembed(
        streams: Float[Tensor, "variants n d_model"],
    ) -> Float[Tensor, "variants n vocab"]:
        logits = torch.addmm(module.b_U, norm(streams).flatten(0, 1), module.W_U)
        return logits.view(*streams.shape[:2], -1)

    return unembed
