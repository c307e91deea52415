"""Frozen norm scales: norms divide by what they divide by in the full model.

A norm divides by a number that depends on the whole residual stream. Ablating a part of the model
therefore rescales the other parts, and a circuit can be fitted to that. With frozen scales it
cannot.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from sparse_lens.patching.hooks import Attachment, Edit, Hooks
from sparse_lens.patching.suspension import suspended

NormScales = Mapping[str, Float[Tensor, "batch pos *head one"]]
"""By the name of a norm's `hook_scale`: what it divides by."""


@torch.no_grad()
def norm_scales(model: HookedTransformer, tokens: Int[Tensor, "batch pos"]) -> NormScales:
    """Scales of all norms on the residual stream (not those of queries and keys) in the full model.

    Raises:
        ValueError: for a model without norms.
    """
    scales: dict[str, Tensor] = {}
    captures = {name: _capture(scales, name) for name in _scale_names(model)}
    if not captures:
        raise ValueError("the model has no norms, so there are no scales to freeze.")
    with suspended(model), Attachment(model, edits={}, captures=captures).attached():
        model(tokens.to(model.cfg.device), return_type=None)
    return scales


def has_norms(model: HookedTransformer) -> bool:
    """Whether the residual stream has norms, whose scales can be frozen."""
    return bool(_scale_names(model))


def _scale_names(model: HookedTransformer) -> list[str]:
    # Norms of queries and keys are modules of `attn`.
    return [n for n in model.hook_dict if n.endswith(".hook_scale") and ".attn." not in n]


def freeze_scales(scales: NormScales, edits: Hooks) -> None:
    """Add edits that replace the norms' scales by these."""
    for name, scale in scales.items():
        edits.add(name, _ReplaceScale(name, scale))


class FrozenScale(nn.Module):
    """Replaces the hook point `hook_scale` of a norm that is called outside the model's forward."""

    def __init__(self, scale: Float[Tensor, "batch pos *head one"]) -> None:
        super().__init__()
        # Under `use_attn_in` each head has a scale; in the full model they are all equal.
        scale = scale[:, :, 0] if scale.ndim == 4 else scale  # [batch, pos, 1]
        self._scale = scale.flatten(0, 1)  # [tokens, 1]
        self.tokens = slice(None)
        """The tokens of the batch, numbered over prompts and positions, of the next call."""

    def forward(self, live_scale: Float[Tensor, "*readers tokens one"]) -> Tensor:
        return self._scale[self.tokens].to(live_scale.dtype).expand_as(live_scale)


class _ReplaceScale:
    """The edit that freezes the scale of one norm."""

    def __init__(self, name: str, scale: Float[Tensor, "batch pos *head one"]) -> None:
        self._name, self._scale = name, scale

    def __call__(self, live_scale: Tensor) -> Tensor:
        if live_scale.shape != self._scale.shape:
            raise ValueError(
                f"norm scales are frozen for the prompts that were given, where {self._name} has "
                f"shape {list(self._scale.shape)}; here it has {list(live_scale.shape)}. Run these "
                "prompts, without a key-value cache."
            )
        return self._scale


def _capture(scales: dict[str, Tensor], name: str) -> Edit:
    def capture(scale: Tensor) -> None:
        scales[name] = scale

    return capture
