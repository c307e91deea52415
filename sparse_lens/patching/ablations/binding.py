"""What an absent node or edge carries: a specification, and its values in a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching.activations import Values
from sparse_lens.patching.channel.attachment import channel_attachment
from sparse_lens.patching.component.masked_pass import component_attachment
from sparse_lens.patching.fit import check_fits
from sparse_lens.patching.hooks import Attachment
from sparse_lens.patching.norms import NormScales
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class Ablation(ABC):
    """What an absent node or edge carries: a specification that is independent of the model.

    A comparison binds the same specification to each of its models. A new ablation is a frozen
    dataclass with a method `bind`; results record its fields, which must be numbers, strings,
    tensors, or sequences, mappings and dataclasses of these. A package adds it to the command line
    through an entry point in the group `sparse_lens.ablations`.
    """

    @abstractmethod
    def bind(self, model: HookedTransformer, graph: Graph) -> BoundAblation:
        """Compute everything that does not depend on the prompts.

        :func:`bind` calls it after it has checked that the graph is the model's. If nothing depends
        on the prompts, return a :class:`BoundConstants`.
        """


@dataclass(frozen=True, eq=False)
class BoundAblation(ABC):
    """A model, one of its graphs, and the values that absent nodes and edges carry in it.

    Nothing else is needed to run circuits of the graph, so methods and evaluations take it as their
    argument `bound`; :func:`bind` makes it from an :class:`Ablation`.

    A subclass defines `values`. If these differ between prompts, it also overrides `rows`; if they
    depend on a whole set of prompts, as random draws do, also `for_prompts`. Results then do not
    depend on the batch size.
    """

    model: HookedTransformer = field(repr=False)
    graph: Graph

    @abstractmethod
    def values(self, prompts: Prompts | None) -> Values:
        """The ablated values of all nodes by site, for a run on these prompts.

        A site that is missing from the result has the value 0.

        Args:
            prompts: None if the circuit runs on tokens without prompts.
        """

    def writer_values(
        self, prompts: Prompts | None
    ) -> Float[Tensor, "writers *batch_pos d_model"] | None:
        """The ablated values of all writers of a component graph in one tensor; None for zeros."""
        values = self.values(prompts)
        if not values:
            return None
        first = next(iter(values.values()))  # [width, *batch_pos, d_model]
        return torch.cat(
            [
                values[name] if name in values else first.new_zeros(site.width, *first.shape[1:])
                for name, site in self.graph.valued_sites.items()
            ]
        )

    def tokens_of(self, prompts: Prompts | None) -> Int[Tensor, "n pos"] | None:
        """Tokens on which the ablated values are the full model's activations; None without any.

        With these, a method can also ablate what precedes the first node (the embeddings, on a
        channel graph), and skip positions at which the clean and the ablated run are equal.
        """
        return None

    def with_ablation(self, ablation: Ablation) -> BoundAblation:
        """Another ablation of the same model and graph."""
        return bind(self.model, self.graph, ablation)

    def for_prompts(self, prompts: Prompts) -> BoundAblation:
        """The ablation for a whole set of prompts, from which `rows` selects batches.

        Random values are drawn here. Returns itself if nothing is drawn, or if it already belongs
        to a set of prompts.
        """
        return self

    def fixed(self, prompts: Prompts) -> BoundAblation:
        """The ablation for a set of prompts on which many circuits will run.

        Its values are computed once, here, and those of all prompts at all nodes held in memory.
        Returns itself if they do not depend on the prompts.
        """
        return BoundFixed.of(self.for_prompts(prompts), prompts)

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> BoundAblation:
        """The ablation for some rows of the prompts, or tokens, that it belongs to."""
        return self

    def batches(self, prompts: Prompts, size: int) -> Iterator[tuple[Prompts, BoundAblation]]:
        """A set of prompts, `size` at a time, each batch with the ablation for it."""
        for_all, start = self.for_prompts(prompts), 0
        for batch in prompts.batches(size):
            yield batch, for_all.rows(slice(start, start + len(batch)))
            start += len(batch)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return torch.device(self.model.cfg.device or "cpu")

    def attachment(
        self, masks: Masks, prompts: Prompts | None, scales: NormScales | None = None
    ) -> Attachment:
        """Hooks with which the model runs as the circuit.

        Args:
            prompts: on which the circuit will run; None for tokens without prompts.
            scales: what norms divide by; None for what they compute in the circuit.
        """
        if isinstance(self.graph, ComponentGraph):
            return component_attachment(self.model, masks, self.writer_values(prompts), scales)
        return channel_attachment(self.model, masks, self.values(prompts), scales)


@dataclass(frozen=True, eq=False)
class BoundFixed(BoundAblation):
    """What another ablation gives for a set of prompts, held in memory.

    See :meth:`BoundAblation.fixed`.
    """

    source: BoundAblation
    """The other ablation, for the same prompts."""

    held: Values | Float[Tensor, "writers *batch_pos d_model"] | None = field(repr=False)
    """Its values by site on a channel graph, and its writers' values on a component graph."""

    @classmethod
    def of(cls, source: BoundAblation, prompts: Prompts) -> BoundFixed:
        """The values of an ablation that belongs to these prompts."""
        is_component = isinstance(source.graph, ComponentGraph)
        held = source.writer_values(prompts) if is_component else source.values(prompts)
        return cls(source.model, source.graph, source, held)

    def values(self, prompts: Prompts | None) -> Values:
        """The held values."""
        if self.held is None:
            return {}
        if not isinstance(self.held, Tensor):
            return self.held
        slices = self.graph.node_slices
        return {name: self.held[slices[name]] for name in self.graph.valued_sites}

    def writer_values(
        self, prompts: Prompts | None
    ) -> Float[Tensor, "writers *batch_pos d_model"] | None:
        """The held values of all writers."""
        assert self.held is None or isinstance(self.held, Tensor)
        return self.held

    def tokens_of(self, prompts: Prompts | None) -> Int[Tensor, "n pos"] | None:
        """Those of the other ablation."""
        return self.source.tokens_of(prompts)

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> BoundFixed:
        """The held values of some of the prompts."""
        held = self.held
        if isinstance(held, Tensor):
            held = _of_rows(held, rows, n_axes=4)
        elif held is not None:
            held = {name: _of_rows(values, rows, n_axes=3) for name, values in held.items()}
        return replace(self, source=self.source.rows(rows), held=held)


def bind(
    model: HookedTransformer, graph: Graph, ablation: Ablation | BoundAblation
) -> BoundAblation:
    """Bind an ablation to a model and its graph; one that is bound to these is returned as it is.

    Raises:
        ValueError: when it is not an ablation, the graph is not the model's, the ablation is bound
            to others, or it needs something that the model lacks (such as reference tokens).
    """
    if isinstance(ablation, BoundAblation):
        is_of_model = ablation.model is model
        if not is_of_model or ablation.graph != graph:
            raise ValueError(
                f"the ablation was bound to another {'graph' if is_of_model else 'model'}: pass "
                "the specification itself, or bind it to this model and graph."
            )
        return ablation
    if not isinstance(ablation, Ablation):
        raise ValueError(
            f"cannot bind {ablation!r}, which is not an ablation: pass an object such as "
            "MeanAblation(), or one of a subclass of sparse_lens.ablation.Ablation."
        )
    check_fits(model, graph)
    return ablation.bind(model, graph)


def check_tokens(tokens: object) -> None:
    """Check the tokens that were given to an ablation.

    Raises:
        ValueError: unless they are None or a tensor with two axes.
    """
    if tokens is not None and not (isinstance(tokens, Tensor) and tokens.ndim == 2):
        shape = f" of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else ""
        raise ValueError(
            f"tokens must be a tensor [n, pos], got {type(tokens).__name__}{shape}; of prompts "
            "these are prompts.clean or prompts.corrupted."
        )


def _of_rows(values: Tensor, rows: Int[Tensor, " rows"] | slice, *, n_axes: int) -> Tensor:
    """Rows of values `[..., n, pos, d]`; those that are the same for all prompts as they are."""
    if values.ndim < n_axes or values.shape[-3] == 1:
        return values
    return values[..., rows.to(values.device) if isinstance(rows, Tensor) else rows, :, :]
