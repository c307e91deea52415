"""An ablation under which some nodes are ablated in every circuit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_lens.masks import Masks
from sparse_lens.patching.ablations.binding import Ablation, BoundAblation
from sparse_lens.patching.activations import Values
from sparse_lens.patching.hooks import Attachment
from sparse_lens.patching.norms import NormScales
from sparse_lens.task import Prompts


@dataclass(frozen=True, eq=False)
class AlwaysAblated(BoundAblation):
    """Another ablation, with some nodes that are ablated whatever circuit, or mask, `patched` runs.

    So a method that learns masks cannot use them. What does not run through `patched` does not know
    of them: first-order and exact effects are those on the full model.
    """

    ablation: BoundAblation

    nodes: Bool[Tensor, " nodes"] = field(repr=False)
    """Numbered over the whole graph."""

    def attachment(
        self, masks: Masks, prompts: Prompts | None, scales: NormScales | None = None
    ) -> Attachment:
        """That of the masks with 0 at these nodes."""
        nodes = dict(masks.nodes)
        for name, never in self.graph.unflatten(self.nodes).items():
            if never.any():
                mask = nodes.get(name, torch.ones(len(never), device=self.device))
                nodes[name] = mask.masked_fill(never.to(mask.device), 0)
        return self.ablation.attachment(replace(masks, nodes=nodes), prompts, scales)

    def values(self, prompts: Prompts | None) -> Values:
        """The other ablation's."""
        return self.ablation.values(prompts)

    def writer_values(
        self, prompts: Prompts | None
    ) -> Float[Tensor, "writers *batch_pos d_model"] | None:
        """The other ablation's."""
        return self.ablation.writer_values(prompts)

    def tokens_of(self, prompts: Prompts | None) -> Int[Tensor, "n pos"] | None:
        """The other ablation's."""
        return self.ablation.tokens_of(prompts)

    def with_ablation(self, ablation: Ablation) -> AlwaysAblated:
        """With another ablation in place of the other one."""
        return replace(self, ablation=self.ablation.with_ablation(ablation))

    def for_prompts(self, prompts: Prompts) -> AlwaysAblated:
        """With the other ablation for these prompts."""
        return replace(self, ablation=self.ablation.for_prompts(prompts))

    def fixed(self, prompts: Prompts) -> AlwaysAblated:
        """With the other ablation's values for these prompts."""
        return replace(self, ablation=self.ablation.fixed(prompts))

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> AlwaysAblated:
        """With the other ablation for these rows."""
        return replace(self, ablation=self.ablation.rows(rows))
