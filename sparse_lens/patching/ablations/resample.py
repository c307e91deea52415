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

    As in causal scrubbing (Chan et al. 2022), with one other prompt for all that is absent. It is
    the clean one of another row of the same set of prompts: of a method's train prompts, or of the
    held-out prompts of an evaluation; how it is drawn says :func:`draw_other_prompts`. It is drawn
    once for the set, so that a prompt has the same in every pass, whatever batches it is run in.
    """

    seed: int = 0
    """Of the draws: other seeds draw other prompts."""

    def bind(self, model: HookedTransformer, graph: Graph) -> BoundResample:
        """Nothing is drawn before the set of prompts is known."""
        return BoundResample(model, graph, self.seed)


@dataclass(frozen=True, eq=False)
class BoundResample(BoundAblation):
    """Activations on other prompts of a set; `for_prompts` draws them.

    Where it is used without that, the prompts that are passed are the set.
    """

    seed: int

    def for_prompts(self, prompts: Prompts) -> BoundInterchange:
        """The ablation for a set of prompts, each with another one of the set.

        Raises:
            ValueError: when there is no other one.
        """
        generator = torch.Generator().manual_seed(self.seed)
        others = draw_other_prompts(prompts, generator).to(prompts.clean.device)
        return BoundInterchange(self.model, self.graph, prompts.clean[others])

    def values(self, prompts: Prompts | None) -> Values:
        """Activations of the whole model on the other prompts."""
        return self._drawn_for(prompts).values(prompts)

    def writer_values(self, prompts: Prompts | None) -> Float[Tensor, "writers n pos d_model"]:
        """Outputs of all writers of the whole model on the other prompts."""
        return self._drawn_for(prompts).writer_values(prompts)

    def tokens_of(self, prompts: Prompts | None) -> Int[Tensor, "n pos"]:
        """The other prompts' clean tokens."""
        return self._drawn_for(prompts).tokens_of(prompts)

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> BoundAblation:
        """Refused: rows of a set that is not known.

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
    """For each prompt the row of another one, drawn uniformly from those at least as long.

    So no value comes from padding, except for a prompt that is longer than all others, for which
    the longest of these are drawn from. A row with the same tokens is no other prompt.

    Raises:
        ValueError: for a prompt without any other.
    """
    n, width = prompts.clean.shape
    lengths = torch.full((n,), width) if prompts.lengths is None else prompts.lengths.cpu()
    is_padding = torch.arange(width) >= lengths[:, None]  # [n, pos]
    _, text = prompts.clean.cpu().masked_fill(is_padding, -1).unique(dim=0, return_inverse=True)
    if not bool((text != text[0]).any()):
        raise ValueError(
            f"got {n} {'prompts with the same tokens' if n > 1 else 'prompt'}, which has no other "
            "to take values from; pass two different ones or more."
        )
    drawn = []
    for i in range(n):
        is_other = text != text[i]
        enough = torch.minimum(lengths[i], lengths[is_other].max())
        candidates = (is_other & (lengths >= enough)).nonzero().flatten()
        drawn.append(candidates[torch.randint(len(candidates), (), generator=generator)])
    return torch.stack(drawn)
