"""How much ablating a channel, or cutting its edges, changes values: ablated - live."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.channel import ChannelBlock, ChannelGraph
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.alignment import aligned, like
from sparse_lens.patching.channel.attachment import (
    attended_values,
    channel_flags,
    site_channels,
)
from sparse_lens.patching.hooks import Attachment, Hooks


class ChannelChanges:
    """ablated - live of all channels, captured in one run of the full model.

    Args:
        ablated: values by site; missing sites have zeros.
        edges: also capture what `of_edges` needs, z and attention patterns.
    """

    def __init__(
        self,
        model: HookedTransformer,
        graph: ChannelGraph,
        ablated: Mapping[str, Tensor],
        *,
        edges: bool,
    ) -> None:
        self._model, self._graph, self._ablated = model, graph, ablated
        self._anatomy = anatomy_of(model)
        self._live: dict[str, Tensor] = {}  # by hook point
        self.captures = Hooks()
        for name, site in graph.sites.items():
            if edges and site.role == "v":
                # The weights to attn_out are applied to z, v mixed by the attention pattern.
                assert site.layer is not None
                self._capture(self._anatomy.z(site.layer))
                if name in self._ablated:
                    self._capture(self._anatomy.pattern(site.layer))
            self._capture(site.hook_name)

    @property
    def known(self) -> bool:
        """Whether the run has been made."""
        return bool(self._live)

    def attachment(self) -> Attachment:
        """The captures as an attachment, for a run that is made for them alone."""
        captures = self.captures.merged()
        return Attachment(
            self._model, edits={}, captures=captures, flags=channel_flags(self.captures)
        )

    def of_nodes(self, name: str) -> Float[Tensor, "batch pos width"]:
        """The changes at a site."""
        site = self._graph.sites[name]
        live = site_channels(self._live[site.hook_name], site)
        if live.ndim == 4:  # all heads read the same
            live = live[:, :, 0]
        return self._ablated_like(name, live) - live

    def of_edges(self, block: ChannelBlock) -> Float[Tensor, "batch pos src"]:
        """The changes in what the weights of a block are applied to."""
        source = block.source.name
        if not block.through_attention:
            return self.of_nodes(source)
        layer = block.source.layer
        assert layer is not None
        z = self._live[self._anatomy.z(layer)]
        if source not in self._ablated:
            return -z.flatten(2)
        # pattern @ ablated v - z, [batch, query, head, d_head]
        ablated = self._ablated_like(source, z.flatten(2)).unflatten(-1, z.shape[2:])
        pattern = self._live[self._anatomy.pattern(layer)]
        return (attended_values(pattern, ablated, self._anatomy) - z).flatten(2)

    def _ablated_like(
        self, name: str, live: Float[Tensor, "batch pos width"]
    ) -> Float[Tensor, "#batch #pos width"]:
        """The ablated values of a site, broadcastable to live ones."""
        if name not in self._ablated:
            return torch.zeros_like(live[:1, :1])
        batch, pos = live.shape[:2]
        values = aligned(self._ablated[name], repr(name), leading=0, batch=batch, pos=pos)
        return like(values, live)

    def _capture(self, hook_name: str) -> None:
        def capture(value: Tensor) -> None:
            self._live.setdefault(hook_name, value.detach())

        if hook_name not in self.captures:
            self.captures.add(hook_name, capture)
