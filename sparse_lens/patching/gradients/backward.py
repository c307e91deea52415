"""Gradients of an objective with respect to values at hook points."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.objectives import Objective
from sparse_lens.patching.gradients.copies import Copies
from sparse_lens.patching.hooks import Attachment, Edit, frozen
from sparse_lens.patching.run import answer_logits
from sparse_lens.patching.suspension import suspended

Captured = dict[str, list[Tensor]]
"""By name, the values that passed a hook point in one forward pass. A norm before attention has
three: TransformerLens calls it once each for queries, keys and values."""


def gradients_at(
    live: Captured,
    model: HookedTransformer,
    copies: Copies,
    objective: Objective,
    attachment: Attachment,
) -> dict[str, Tensor]:
    """Gradients of the objective, summed over prompts, with respect to captured values.

    Args:
        live: filled by the captures of `attachment` during the run.
        copies: the prompts to run on.

    Returns:
        By name as in `live`; the sum where a hook point was passed several times.
    """
    with suspended(model), frozen(model), torch.enable_grad():
        with attachment.attached():
            logits = answer_logits(model, copies.prompts)
        loss = objective(logits, copies.prompts, copies.full_logits).sum()
        inputs = [value for values in live.values() for value in values]
        gradients = iter(torch.autograd.grad(loss, inputs, materialize_grads=True))
    return {name: _sum([next(gradients) for _ in values]) for name, values in live.items()}


def start_graph(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
    """The edit with which gradients start at a residual stream, since parameters are frozen."""
    return stream.detach().requires_grad_()


def capture_into(values: Captured, name: str) -> Edit:
    """A capture that appends what passes its hook point to `values[name]`."""

    def capture(value: Tensor) -> None:
        values.setdefault(name, []).append(value)

    return capture


def _sum(gradients: list[Tensor]) -> Tensor:
    return gradients[0] if len(gradients) == 1 else torch.stack(gradients).sum(0)
