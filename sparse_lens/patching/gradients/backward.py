"""Gradients at what passes hook points, while the model's parameters are frozen."""

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
"""What passed hook points in one forward pass, by name. A norm before attention has three values:
TransformerLens calls it for queries, keys and values alike."""


def gradients_at(
    live: Captured,
    model: HookedTransformer,
    copies: Copies,
    objective: Objective,
    attachment: Attachment,
) -> dict[str, Tensor]:
    """Gradients of the summed objective with respect to what an attachment captures in `live`."""
    with suspended(model), frozen(model), torch.enable_grad():
        with attachment.attached():
            logits = answer_logits(model, copies.prompts)
        loss = objective(logits, copies.prompts, copies.full_logits).sum()
        found = [value for values in live.values() for value in values]
        gradients = iter(torch.autograd.grad(loss, found, materialize_grads=True))
    return {name: _total([next(gradients) for _ in values]) for name, values in live.items()}


def start_graph(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
    """Parameters are frozen: gradients start at a stream."""
    return stream.detach().requires_grad_()


def keep(values: Captured, name: str) -> Edit:
    """A capture that notes what passes under a name."""

    def note(value: Tensor) -> None:
        values.setdefault(name, []).append(value)

    return note


def _total(gradients: list[Tensor]) -> Tensor:
    return gradients[0] if len(gradients) == 1 else torch.stack(gradients).sum(0)
