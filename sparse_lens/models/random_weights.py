"""Models of random weights, the control for models that were trained."""

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.models import zoo

Model = TypeVar("Model", bound=HookedTransformer)


@torch.no_grad()
def random_weights(model: Model, *, seed: int = 0) -> Model:
    """A copy of a model with each parameter's nonzero entries dealt out anew among their places.

    The parameter randomisation test of Adebayo et al. 2018 (1810.03292), for circuits: a method
    that finds as good a circuit here owes it to its search, not to what the model learned.

    Zeros stay, and so does the channel graph; each parameter keeps its values, and only what
    training put where is lost. (Draws from a normal distribution of the same spread would lose the
    heavy tails of trained weights as well.) What is not learned stays, too: sinusoidal positions,
    and an unembedding tied to the embedding. Where models go by names, `random:` before one stands
    for this copy of it.

    Args:
        seed: of the permutations, which are the same on any device.
    """
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    sparse_cfg = getattr(twin, "sparse_cfg", None)
    for name, parameter in twin.named_parameters():
        if name == "pos_embed.W_pos" and sparse_cfg and sparse_cfg.sinusoidal_cat_pos_emb:
            continue
        parameter.copy_(_dealt_anew(parameter, generator))
    if sparse_cfg and sparse_cfg.tied_unembed:
        twin.unembed.W_U.copy_(twin.embed.W_E.T)
    twin.cfg.model_name = f"{zoo.RANDOM}{model.cfg.model_name}"
    return twin


def has_random_weights(model: HookedTransformer) -> bool:
    """Whether a model is one that `random_weights` made."""
    return model.cfg.model_name.startswith(zoo.RANDOM)


def _dealt_anew(
    parameter: Float[Tensor, "*shape"], generator: torch.Generator
) -> Float[Tensor, "*shape"]:
    """The parameter with its nonzero entries permuted, on the CPU."""
    values = parameter.detach().cpu().flatten()
    places = values.nonzero().flatten()  # [nonzero]
    dealt = places[torch.randperm(len(places), generator=generator)]
    return values.index_put((places,), values[dealt]).reshape(parameter.shape)
