"""Norms whose scales are held at what they are in the whole model.

A norm divides by a number that depends on the whole stream, so that what a circuit leaves out
rescales what it keeps, and a circuit can be tuned to that. With the scales held, it cannot.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from sparse_lens.patching.hooks import Attachment, Edit, Hooks
from sparse_lens.patching.suspension import suspended

NormScales = Mapping[str, Float[Tensor, "batch pos *head one"]]
"""What norms divide by, by the name of their hook point."""


@torch.no_grad()
def norm_scales(model: HookedTransformer, tokens: Int[Tensor, "batch pos"]) -> NormScales:
    """Scales of all norms on the residual stream (not those of queries and keys) in the full model.

    Raises:
        ValueError: for a model that has none.
    """
    scales: dict[str, Tensor] = {}
    captures = {name: _keeping(scales, name) for name in _scale_names(model)}
    if not captures:
        raise ValueError("the model has no norms, so there are no scales to freeze.")
    with suspended(model), Attachment(model, edits={}, captures=captures).attached():
        model(tokens.to(model.cfg.device), return_type=None)
    return scales


def has_norms(model: HookedTransformer) -> bool:
    """Whether there are norms on the residual stream, whose scales could be frozen."""
    return bool(_scale_names(model))


def _scale_names(model: HookedTransformer) -> list[str]:
    return [n for n in model.hook_dict if n.endswith(".hook_scale") and ".attn." not in n]


def freeze_scales(scales: NormScales, edits: Hooks) -> None:
    """Add the edits that put these scales in place of what the norms find."""
    for name, scale in scales.items():
        edits.add(name, _Put(name, scale))


class FrozenScale(nn.Module):
    """Stands in for the hook point of a norm that is run apart from the model, on some tokens."""

    def __init__(self, scale: Float[Tensor, "batch pos *head one"]) -> None:
        super().__init__()
        one = scale[:, :, 0] if scale.ndim == 4 else scale  # heads that read alike
        self._scale = one.flatten(0, 1)
        self.tokens = slice(None)
        """Those of the batch that are run next."""

    def forward(self, found: Float[Tensor, "*readers tokens one"]) -> Tensor:
        return self._scale[self.tokens].to(found.dtype).expand_as(found)


class _Put:
    """The edit at one norm."""

    def __init__(self, name: str, scale: Float[Tensor, "batch pos *head one"]) -> None:
        self._name, self._scale = name, scale

    def __call__(self, found: Tensor) -> Tensor:
        if found.shape != self._scale.shape:
            raise ValueError(
                f"norm scales are frozen for the prompts that were given, where {self._name} has "
                f"shape {list(self._scale.shape)}; here it has {list(found.shape)}. Run these "
                "prompts, without a key-value cache."
            )
        return self._scale


def _keeping(found: dict[str, Tensor], name: str) -> Edit:
    def keep(scale: Tensor) -> None:
        found[name] = scale

    return keep
