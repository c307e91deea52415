"""What an absent node or edge carries: as a specification, and bound to a model's graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

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
    """What an absent node or edge carries: a specification, without tensors of any model.

    One specification serves a whole comparison, where it is bound to one model after the other. A
    new ablation is a frozen dataclass with a method `bind`; results record its fields, which are
    numbers, strings, tensors, or sequences, mappings and dataclasses of these. A package adds it to
    the command line through an entry point in the group `sparse_lens.ablations`.
    """

    @abstractmethod
    def bind(self, model: HookedTransformer, graph: Graph) -> BoundAblation:
        """Compute what does not depend on the prompts.

        Called by :func:`bind`, which checks before that the graph is the model's. If nothing
        depends on the prompts, return a :class:`BoundConstants`.
        """


@dataclass(frozen=True, eq=False)
class BoundAblation(ABC):
    """A model, one of its graphs, and what absent nodes and edges carry in it.

    Nothing else is needed to run circuits of the graph, so this is what methods and evaluations
    take as `bound`; :func:`bind` makes it of an :class:`Ablation`.

    A subclass defines `values`. If these differ between prompts, it also overrides `rows`; if they
    depend on a whole set of prompts, such as random draws do, also `for_prompts`. Results then do
    not depend on the batch size.
    """

    model: HookedTransformer = field(repr=False)
    graph: Graph

    @abstractmethod
    def values(self, prompts: Prompts | None) -> Values:
        """What absent nodes carry when the circuit runs on these prompts; absent sites carry 0.

        Args:
            prompts: None where the circuit runs on tokens alone.
        """

    def writer_values(
        self, prompts: Prompts | None
    ) -> Float[Tensor, "writers *batch_pos d_model"] | None:
        """The same for all writers of a component graph in one tensor; None for zeros."""
        values = self.values(prompts)
        if not values:
            return None
        given = next(iter(values.values()))
        return torch.cat(
            [
                values[name] if name in values else given.new_zeros(site.width, *given.shape[1:])
                for name, site in self.graph.sites.items()
                if name != "logits"
            ]
        )

    def tokens_of(self, prompts: Prompts | None) -> Int[Tensor, "n pos"] | None:
        """Tokens on which these values are the full model's activations; None if there are none.

        Given these, a method can also ablate what comes before the first node (the embeddings, on a
        channel graph), and skip positions at which the clean and the ablated run are the same.
        """
        return None

    def for_prompts(self, prompts: Prompts) -> BoundAblation:
        """The ablation for a whole set of prompts, from which `rows` selects.

        Random values are drawn here. An ablation that was made for a set of prompts already, or
        that draws nothing, returns itself.
        """
        return self

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> BoundAblation:
        """The ablation for some of the prompts, or tokens, that it was made for."""
        return self

    def batches(self, prompts: Prompts, size: int) -> Iterator[tuple[Prompts, BoundAblation]]:
        """A set of prompts `size` at a time, each batch with its part of the ablation."""
        whole, start = self.for_prompts(prompts), 0
        for batch in prompts.batches(size):
            yield batch, whole.rows(slice(start, start + len(batch)))
            start += len(batch)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(self.model.cfg.device or "cpu")

    def attachment(
        self, masks: Masks, prompts: Prompts | None, scales: NormScales | None = None
    ) -> Attachment:
        """Hooks that make the model the circuit on these prompts, with these scales of norms."""
        if isinstance(self.graph, ComponentGraph):
            return component_attachment(self.model, masks, self.writer_values(prompts), scales)
        return channel_attachment(self.model, masks, self.values(prompts), scales)


def bind(
    model: HookedTransformer, graph: Graph, ablation: Ablation | BoundAblation
) -> BoundAblation:
    """Bind an ablation to a model and its graph; returns one that is bound to them already.

    Raises:
        ValueError: when it is no ablation, the graph is not the model's, or the ablation lacks
            something of this model (a mean its reference tokens, for example).
    """
    if isinstance(ablation, BoundAblation):
        other = "graph" if ablation.model is model else "model"
        if other == "model" or ablation.graph != graph:
            raise ValueError(
                f"the ablation was bound to another {other}: pass the specification itself, or "
                "bind it to this model and graph."
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
