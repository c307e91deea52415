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
from sparse_lens.patching.component.attachment import component_attachment
from sparse_lens.patching.fit import check_fits
from sparse_lens.patching.hooks import Attachment
from sparse_lens.patching.norms import NormScales
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class Ablation(ABC):
    """What an absent node or edge carries.

    A specification without tensors of any model, so that one serves a whole comparison. To write
    one, make a frozen dataclass of numbers, strings and tensors (they are written down with the
    results) that says how it is bound. An installed package offers it to the command line through
    an entry point in the group `sparse_lens.ablations`.
    """

    @abstractmethod
    def bind(self, model: HookedTransformer, graph: Graph) -> BoundAblation:
        """Compute, once, what does not depend on the prompts.

        Called through :func:`bind`, which has made sure that the graph is the model's. Where values
        do not depend on the prompts at all, a :class:`BoundConstants` is what to return.
        """


@dataclass(frozen=True, eq=False)
class BoundAblation(ABC):
    """An ablation that was bound to a model and one of its graphs.

    These three are what a circuit needs to run, and so what methods and evaluations take, as
    `bound`. A subclass says by `values` what absent nodes and edges carry on a batch of prompts.
    Where that differs from prompt to prompt, it also overrides `rows`; where it takes the whole
    set of prompts to know (random draws, say), `for_prompts`, so that nothing depends on how a
    set is divided into batches.
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
        """Tokens on which the whole model carries exactly these values; None of constants.

        With tokens at hand, what the model does before its nodes can be ablated, too (the embedding
        under a channel graph), and what it does alike on both need not be computed twice.
        """
        return None

    def for_prompts(self, prompts: Prompts) -> BoundAblation:
        """The ablation for a whole set of prompts, of which `rows` takes parts.

        What is drawn at random for each prompt is drawn here. Ablations that are for a set of
        prompts already, or the same for all prompts, stay as they are.
        """
        return self

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> BoundAblation:
        """The ablation for some of the prompts, or tokens, that it was made for."""
        return self

    def batches(self, prompts: Prompts, size: int) -> Iterator[tuple[Prompts, BoundAblation]]:
        """A set of prompts `size` at a time, each batch with its part of the ablation."""
        whole = self.for_prompts(prompts)
        for start in range(0, len(prompts), size):
            batch = slice(start, start + size)
            yield prompts[batch], whole.rows(batch)

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
    """Bind an ablation to a model and its graph; one that is bound to them already stays as it is.

    Raises:
        ValueError: for what is no ablation, when the graph is not the model's, or when the
            ablation cannot be had of this model (means without reference tokens, say).
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
    """Refuse tokens of an ablation that are no matrix.

    Raises:
        ValueError: naming what they are.
    """
    if tokens is not None and not (isinstance(tokens, Tensor) and tokens.ndim == 2):
        shape = f" of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else ""
        raise ValueError(
            f"tokens must be a tensor [n, pos], got {type(tokens).__name__}{shape}; of prompts "
            "these are prompts.clean or prompts.corrupted."
        )
