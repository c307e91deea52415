"""What models are made of. A new kind of model is one file here and one line below."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformer_lens import HookedTransformer

from sparse_lens.models.anatomy.anatomy import Anatomy as Anatomy
from sparse_lens.models.anatomy.hooked_transformer import hooked_transformer_anatomy
from sparse_lens.models.anatomy.sparse_gpt import sparse_gpt_anatomy
from sparse_lens.models.sparse_gpt import HookedSparseGPT

# The first kind that a model is an instance of counts.
_KINDS: tuple[tuple[type, Callable[[Any], Anatomy]], ...] = (
    (HookedSparseGPT, lambda model: sparse_gpt_anatomy(model.sparse_cfg)),
    (HookedTransformer, lambda model: hooked_transformer_anatomy(model.cfg)),
)


def anatomy_of(model: nn.Module) -> Anatomy:
    """What a model is made of, by its configuration as it is now.

    Raises:
        ValueError: for a kind of model that is not known here, such as an encoder.
    """
    for kind, anatomy in _KINDS:
        if isinstance(model, kind):
            return anatomy(model)
    raise ValueError(
        "circuits are found in a HookedTransformer (a decoder) or a HookedSparseGPT, got "
        f"{type(model).__name__}."
    )
