"""Resample ablation: the values of a run on another prompt, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.base import Graph
from sparse_lens.patching.ablations.binding import Ablation, BoundAblation
from sparse_lens.patching.ablations.interchange import BoundInterchange
from sparse_lens.patching.activations import Values
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class ResampleAblation(Ablation):
    """An absent node or edge carries its value in a run on another prompt, drawn at random.

    The resampling of causal scrubbing (Chan et al. 2022), with the same other prompt for all absent
    nodes and edges. It is a clean prompt of the same set (a method's train prompts, an evaluation's
    held-out prompts), see :func:`draw_other_prompts`. The draws are made once for the set, so a
    prompt has the same other prompt in every forward pass, and results do not depend on the batch
    size.
    """

    seed: int = 0
    """Seed of the draws."""

    def bind(self, model: HookedTransformer, graph: Graph) -> BoundResample:
        """Binding draws nothing, since the draws depend on the set of prompts."""
        return BoundResample(model, graph, self.seed)


@dataclass(frozen=True, eq=False)
class BoundResample(BoundAblation):
    """The full model's activations on other prompts of a set, which `for_prompts` draws.

    Without `for_prompts`, the prompts of the forward pass are the whole set.
    """

    seed: int

    def for_prompts(self, prompts: Prompts) -> BoundInterchange:
        """Interchange ablation with the other prompt that is drawn for each prompt of a set.

        Raises:
            ValueError: when all prompts of the set are the same.
        """
        generator = torch.Generator().manual_seed(self.seed)
        other_rows = draw_other_prompts(prompts, generator).to(prompts.clean.device)
        return BoundInterchange(self.model, self.graph, prompts.clean[other_rows])

    def values(self, prompts: Prompts | None) -> Values:
        """Activations of the full model on the other prompts."""
        return self._drawn_for(prompts).values(prompts)

    def writer_values(self, prompts: Prompts | None) -> Float[Tensor, "writers n pos d_model"]:
        """Outputs of all writers of the full model on the other prompts."""
        return self._drawn_for(prompts).writer_values(prompts)

    def tokens_of(self, prompts: Prompts | None) -> Int[Tensor, "n pos"]:
        """The other prompts' clean tokens."""
        return self._drawn_for(prompts).tokens_of(prompts)

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> BoundAblation:
        """Not defined before `for_prompts`.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "ResampleAblation() draws from a whole set of prompts, which is not known here: take "
            "bound.for_prompts(prompts).rows(...), or bound.batches(prompts, size)."
        )

    def _drawn_for(self, prompts: Prompts | None) -> BoundInterchange:
        if prompts is None:
            raise ValueError(
                "ResampleAblation() takes values from other prompts, but there are only tokens "
                "here: pass Prompts, or InterchangeAblation(tokens=...) with tokens of your own."
            )
        return self.for_prompts(prompts)


def draw_other_prompts(prompts: Prompts, generator: torch.Generator) -> Int[Tensor, " n"]:
    """For each prompt the row of another prompt, drawn uniformly from those at least as long.

    Ablated values then never come from padding. For a prompt that is longer than all others, one of
    the longest others is drawn. Rows with the same tokens do not count as other prompts.

    Raises:
        ValueError: when all rows have the same tokens.
    """
    n, width = prompts.clean.shape
    lengths = torch.full((n,), width) if prompts.lengths is None else prompts.lengths.cpu()
    is_padding = torch.arange(width) >= lengths[:, None]  # [n, pos]
    tokens = prompts.clean.cpu().masked_fill(is_padding, -1)
    text = tokens.unique(dim=0, return_inverse=True)[1]  # [n]; equal for rows with the same tokens
    if not bool((text != text[0]).any()):
        raise ValueError(
            "resampling takes values from another prompt, and there is no other one: the number of "
            f"prompts is {n}, all with the same tokens. Pass at least two different prompts."
        )
    rows = []
    for row in range(n):
        is_other = text != text[row]
        min_length = torch.minimum(lengths[row], lengths[is_other].max())
        candidates = (is_other & (lengths >= min_length)).nonzero().flatten()
        rows.append(candidates[torch.randint(len(candidates), (), generator=generator)])
    return torch.stack(rows)
