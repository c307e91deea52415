"""Ablation specifications meet a model: what absent nodes and edges carry, as tensors."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation, InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.graphs.base import Graph, did_you_mean
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching.activations import (
    Values,
    activations,
    mean_activations,
    writer_activations,
)
from sparse_lens.patching.channel.attachment import channel_attachment
from sparse_lens.patching.component.attachment import component_attachment
from sparse_lens.patching.fit import check_fits
from sparse_lens.patching.hooks import Attachment
from sparse_lens.patching.norms import NormScales
from sparse_lens.task import Prompts


@dataclass(frozen=True, eq=False)
class BoundAblation(ABC):
    """An ablation of one model's graph; `values` gives the tensors for a batch of prompts."""

    model: HookedTransformer = field(repr=False)
    graph: Graph

    @abstractmethod
    def values(self, prompts: Prompts | None) -> Values:
        """What absent nodes carry when the circuit runs on these prompts; absent sites carry 0."""

    @abstractmethod
    def writer_values(
        self, prompts: Prompts | None
    ) -> Float[Tensor, "writers *batch_pos d_model"] | None:
        """The same for all writers of a component graph in one tensor; None for zeros."""

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> "BoundAblation":
        """The ablation for some rows of the tokens that it was made for."""
        return self

    def slice(self, start: int, stop: int) -> "BoundAblation":
        """The ablation for rows start to stop of the tokens that it was made for."""
        return self.rows(slice(start, stop))

    def batches(self, prompts: Prompts, size: int) -> Iterator[tuple[Prompts, "BoundAblation"]]:
        """Prompts `size` at a time, each with its part of the ablation."""
        for start in range(0, len(prompts), size):
            yield prompts[start : start + size], self.slice(start, start + size)

    def attachment(
        self, masks: Masks, prompts: Prompts | None, scales: NormScales | None = None
    ) -> Attachment:
        """Hooks that make the model the circuit on these prompts, with these scales of norms."""
        if isinstance(self.graph, ComponentGraph):
            return component_attachment(self.model, masks, self.writer_values(prompts), scales)
        return channel_attachment(self.model, masks, self.values(prompts), scales)


@dataclass(frozen=True, eq=False)
class BoundConstants(BoundAblation):
    """Zeros or means: the same whatever the prompts."""

    constants: Values = field(repr=False)
    """By site; empty for zeros."""

    def values(self, prompts: Prompts | None) -> Values:
        return self.constants

    def writer_values(
        self, prompts: Prompts | None
    ) -> Float[Tensor, "writers *pos d_model"] | None:
        return self._of_writers

    @cached_property
    def _of_writers(self) -> Tensor | None:
        if not self.constants:
            return None
        return torch.cat([self.constants[name] for name in self.graph.sites if name != "logits"])


@dataclass(frozen=True, eq=False)
class BoundInterchange(BoundAblation):
    """Activations on other tokens: those given, or the prompts' corrupted ones."""

    tokens: Int[Tensor, "n pos"] | None = field(repr=False)

    def values(self, prompts: Prompts | None) -> Values:
        return activations(self.model, self.graph, self.tokens_of(prompts))

    def writer_values(self, prompts: Prompts | None) -> Float[Tensor, "writers n pos d_model"]:
        assert isinstance(self.graph, ComponentGraph)
        return writer_activations(self.model, self.graph, self.tokens_of(prompts))

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> BoundAblation:
        if self.tokens is None or len(self.tokens) == 1:  # one row serves all
            return self
        if isinstance(rows, Tensor):
            rows = rows.to(self.tokens.device)
        return replace(self, tokens=self.tokens[rows])

    def tokens_of(self, prompts: Prompts | None) -> Int[Tensor, "n pos"]:
        """Those that the ablated values are taken from: given ones, or the prompts' corrupted."""
        if self.tokens is not None:
            return self.tokens
        if prompts is None:
            raise ValueError(
                "InterchangeAblation() takes the prompts' corrupted tokens, but there are only "
                "tokens here: pass Prompts, or InterchangeAblation(tokens=...)."
            )
        return prompts.corrupted


def bind(
    model: HookedTransformer, graph: Graph, ablation: Ablation | BoundAblation
) -> BoundAblation:
    """Compute what of an ablation does not depend on the prompts, once.

    Raises:
        ValueError: when the graph is not the model's, or means are asked of a model without
            reference tokens, or do not fit.
    """
    if isinstance(ablation, BoundAblation):
        other = "graph" if ablation.model is model else "model"
        if other == "model" or ablation.graph != graph:
            raise ValueError(
                f"the ablation was bound to another {other}: pass the specification itself, or "
                "bind it to this model and graph."
            )
        return ablation
    check_fits(model, graph)
    if isinstance(ablation, ZeroAblation):
        return BoundConstants(model, graph, {})
    if isinstance(ablation, InterchangeAblation):
        return BoundInterchange(model, graph, ablation.tokens)
    if isinstance(ablation, MeanAblation):
        return BoundConstants(model, graph, _means(model, graph, ablation))
    raise ValueError(
        f"cannot bind {ablation!r}: not an ablation that sparse-lens knows, which are "
        "ZeroAblation(), MeanAblation() and InterchangeAblation()."
    )


def _means(model: HookedTransformer, graph: Graph, ablation: MeanAblation) -> Values:
    if ablation.means is not None:
        return _checked(graph, ablation.means)
    tokens = ablation.tokens
    if tokens is None:
        tokens = getattr(model, "reference_tokens", None)
    if tokens is None:
        raise ValueError(
            "MeanAblation() takes means over the model's reference tokens, and this model has "
            "none: pass MeanAblation(tokens=...) with text like its training data, or means=."
        )
    return mean_activations(
        model, graph, tokens, lengths=ablation.lengths, per_position=ablation.per_position
    )


def _checked(graph: Graph, means: Mapping[str, Tensor]) -> Values:
    nodes = [name for name in graph.sites if name != "logits"]
    unknown = [name for name in means if name not in nodes]
    if unknown:
        hint = did_you_mean(unknown[0], nodes)
        raise ValueError(f"means name {unknown[:4]}, which are no sites of {graph}.{hint}")
    missing = [name for name in nodes if name not in means]
    if missing:
        raise ValueError(
            f"means must name every site of {graph}: {len(missing)} are missing, "
            f"{', '.join(missing[:4])}{', ...' * (len(missing) > 4)}."
        )
    leading = 1 if isinstance(graph, ComponentGraph) else 0
    for name in nodes:
        width = graph.sites[name].width
        shape = tuple(means[name].shape)
        outer = (width, graph.d_model) if leading else (width,)
        if len(shape) - len(outer) not in (0, 1) or (*shape[:leading], shape[-1]) != outer:
            wanted = ", ".join(map(str, outer))
            per_position = ", ".join(map(str, (*outer[:leading], "pos", outer[-1])))
            raise ValueError(
                f"the means of {name!r} must have shape [{wanted}] or [{per_position}], "
                f"got {list(shape)}."
            )
    if len({means[name].ndim for name in nodes}) > 1 and leading:
        raise ValueError("either all means have one row per position, or none; got a mixture.")
    return {name: means[name].detach() for name in nodes}
