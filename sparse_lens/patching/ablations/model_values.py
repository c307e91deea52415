"""An ablation under which some nodes carry what they carry in the full model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.activations import Values, activations
from sparse_lens.patching.alignment import aligned, like
from sparse_lens.task import Prompts


@dataclass(frozen=True, eq=False)
class WithModelValues(BoundAblation):
    """Another ablation, but for some nodes, which when absent carry their value in the full model.

    So a node that a circuit computes wrongly can be set right by leaving it out of the circuit.
    """

    others: BoundAblation
    """What all other nodes carry."""

    nodes: Bool[Tensor, " nodes"] = field(repr=False)
    """Numbered over the whole graph."""

    def values(self, prompts: Prompts | None) -> Values:
        """The full model's values on the clean prompts at these nodes, and the others' elsewhere.

        Raises:
            ValueError: without prompts.
        """
        if prompts is None:
            raise ValueError("the full model's values are those on prompts: pass prompts=.")
        n, pos = prompts.clean.shape
        leading = int(isinstance(self.graph, ComponentGraph))  # axes before those of the tokens
        others, at_sites = self.others.values(prompts), self.graph.unflatten(self.nodes)
        values = {}
        for name, full in activations(self.model, self.graph, prompts.clean).items():
            here = at_sites[name].to(full.device)
            if leading:
                here = here[:, None, None, None]  # [width, n, pos, d_model]
            other = full.new_zeros(())
            if name in others:
                other = like(aligned(others[name], name, leading=leading, batch=n, pos=pos), full)
            values[name] = torch.where(here, full, other)
        return values

    def for_prompts(self, prompts: Prompts) -> WithModelValues:
        """With the other ablation for these prompts."""
        return replace(self, others=self.others.for_prompts(prompts))

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> WithModelValues:
        """With the other ablation for these rows."""
        return replace(self, others=self.others.rows(rows))
