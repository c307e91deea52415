"""Ablation specifications meet a model: what absent nodes and edges carry, as tensors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation, InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching.channel import as_channels, channel_attachment, channel_flags
from sparse_lens.patching.component import component_attachment, needed_flags
from sparse_lens.patching.hooks import Attachment, Edit
from sparse_lens.patching.suspension import suspended
from sparse_lens.patching.writers import WriterOutputs
from sparse_lens.task import Prompts

Values = Mapping[str, Tensor]
"""Ablated values by site. Channel graph: `[width]`, `[pos, width]` or `[batch, pos, width]`.
Component graph: `[width, d_model]`, `[width, pos, d_model]` or `[width, batch, pos, d_model]`."""

REFERENCE_BATCH = 32


@dataclass(frozen=True, eq=False)
class BoundAblation(ABC):
    """An ablation of one model's graph; `values` gives the tensors for a batch of prompts."""

    model: HookedTransformer
    graph: Graph

    @abstractmethod
    def values(self, prompts: Prompts | None) -> Values:
        """What absent nodes carry when the circuit runs on these prompts; absent sites carry 0."""

    def writer_values(
        self, prompts: Prompts | None
    ) -> Float[Tensor, "writers batch_or_1 pos_or_1 d_model"] | None:
        """The same for all writers of a component graph in one tensor; None for zeros."""
        values = self.values(prompts)
        parts = [values[name] for name in self.graph.sites if name in values]
        return torch.cat([_as_batch(part) for part in parts]) if parts else None

    def attachment(self, masks: Masks, prompts: Prompts | None) -> Attachment:
        """Hooks that make the model the circuit on these prompts."""
        if isinstance(self.graph, ComponentGraph):
            return component_attachment(self.model, masks, self.writer_values(prompts))
        return channel_attachment(self.model, masks, self.values(prompts))


@dataclass(frozen=True, eq=False)
class BoundConstants(BoundAblation):
    """Zeros or means: the same whatever the prompts."""

    constants: Values

    def values(self, prompts: Prompts | None) -> Values:
        return self.constants


@dataclass(frozen=True, eq=False)
class BoundInterchange(BoundAblation):
    """Activations on other tokens: those given, or the prompts' corrupted ones."""

    tokens: Int[Tensor, "n pos"] | None

    def values(self, prompts: Prompts | None) -> Values:
        tokens = self.tokens
        if tokens is None:
            if prompts is None:
                raise ValueError(
                    "InterchangeAblation() takes the prompts' corrupted tokens, but there are only "
                    "tokens here: pass Prompts, or InterchangeAblation(tokens=...)."
                )
            tokens = prompts.corrupted
        return activations(self.model, self.graph, tokens)


def bind(
    model: HookedTransformer, graph: Graph, ablation: Ablation | BoundAblation
) -> BoundAblation:
    """Compute what of an ablation does not depend on the prompts, once.

    Raises:
        ValueError: when means are asked of a model without reference tokens, or do not fit.
    """
    if isinstance(ablation, BoundAblation):
        return ablation
    if isinstance(ablation, ZeroAblation):
        return BoundConstants(model, graph, {})
    if isinstance(ablation, InterchangeAblation):
        return BoundInterchange(model, graph, ablation.tokens)
    if isinstance(ablation, MeanAblation):
        if ablation.means is not None:
            return BoundConstants(model, graph, _checked(graph, ablation.means))
        tokens = ablation.tokens
        if tokens is None:
            tokens = getattr(model, "reference_tokens", None)
        if tokens is None:
            raise ValueError(
                "MeanAblation() takes means over the model's reference tokens, and this model has "
                "none: pass MeanAblation(tokens=...) with text like its training data, or means=."
            )
        means = mean_activations(model, graph, tokens, per_position=ablation.per_position)
        return BoundConstants(model, graph, means)
    raise ValueError(f"cannot bind {ablation!r}: not an ablation that sparse-lens knows.")


@torch.no_grad()
def activations(model: HookedTransformer, graph: Graph, tokens: Int[Tensor, "n pos"]) -> Values:
    """The values of all nodes in a run of the whole model on some tokens."""
    values: dict[str, Tensor] = {}
    if isinstance(graph, ComponentGraph):

        def receive(live: Tensor, columns: slice) -> None:
            names = [n for n, where in graph.node_slices.items() if where == columns]
            values[names[0]] = live.detach().clone()

        captures = WriterOutputs(model, graph, receive).captures
        attachment = Attachment(model, edits={}, captures=captures, flags=needed_flags(model))
    else:
        captures = {
            site.hook_name: _keep(values, name, site.width) for name, site in graph.sites.items()
        }
        attachment = Attachment(model, edits={}, captures=captures, flags=channel_flags(model))
    with suspended(model), attachment.attached():
        model(tokens.to(model.cfg.device), return_type=None)
    return values


def mean_activations(
    model: HookedTransformer,
    graph: Graph,
    tokens: Int[Tensor, "n pos"],
    *,
    per_position: bool = False,
    batch_size: int = REFERENCE_BATCH,
) -> Values:
    """Means of all nodes' values over some tokens, in float32.

    Pooled over positions, or one for each position.
    """
    if len(tokens) == 0:
        raise ValueError("cannot take means over no tokens.")
    sums: dict[str, Tensor] = {}
    for batch in tokens.split(batch_size):
        for name, value in activations(model, graph, batch).items():
            # The batch axis is the first of a channel's values, the second of a writer's.
            axis = 1 if isinstance(graph, ComponentGraph) else 0
            part = value.float().sum(axis) if per_position else value.float().sum((axis, axis + 1))
            sums[name] = sums[name] + part if name in sums else part
    count = len(tokens) if per_position else tokens.numel()
    return {name: total / count for name, total in sums.items()}


def _keep(values: dict[str, Tensor], name: str, width: int) -> Edit:
    def keep(found: Tensor) -> None:
        flat, _ = as_channels(found, width)
        values[name] = (flat[:, :, 0] if flat.ndim == 4 else flat).detach().clone()

    return keep


def _as_batch(value: Tensor) -> Tensor:
    """[width, (batch,) (pos,) d_model] with all four axes."""
    if value.ndim == 2:
        return value[:, None, None]
    return value[:, None] if value.ndim == 3 else value


def _checked(graph: Graph, means: Mapping[str, Tensor]) -> Values:
    nodes = [name for name in graph.sites if name != "logits"]
    missing = [name for name in nodes if name not in means]
    unknown = [name for name in means if name not in nodes]
    if missing or unknown:
        raise ValueError(f"means must name every site: missing {missing}, unknown {unknown}.")
    for name in nodes:
        width = graph.sites[name].width
        shape = tuple(means[name].shape)
        if isinstance(graph, ComponentGraph):
            fits = len(shape) in (2, 3) and (shape[0], shape[-1]) == (width, graph.d_model)
            wanted = f"[{width}, {graph.d_model}] or [{width}, pos, {graph.d_model}]"
        else:
            fits = len(shape) in (1, 2) and shape[-1] == width
            wanted = f"[{width}] or [pos, {width}]"
        if not fits:
            raise ValueError(f"the means of {name!r} must have shape {wanted}, got {shape}.")
    return dict(means)
