"""What ablating a channel, or cutting what it sends along its weights, changes."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.channel import ChannelBlock, ChannelGraph
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.alignment import aligned, like
from sparse_lens.patching.channel.attachment import channel_flags, site_channels
from sparse_lens.patching.hooks import Attachment, Hooks


class ChannelChanges:
    """ablated - live of the channels, of a run of the whole model."""

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
        self._live: dict[str, Tensor] = {}
        self.captures = Hooks()
        for name, site in graph.sites.items():
            if edges and site.role == "v":
                # What arrives at attn_out is v through the attention pattern.
                assert site.layer is not None
                self._keep(self._anatomy.z(site.layer))
                if name in self._ablated:
                    self._keep(self._anatomy.pattern(site.layer))
            self._keep(site.hook_name)

    @property
    def known(self) -> bool:
        """Whether that run was made."""
        return bool(self._live)

    def attachment(self) -> Attachment:
        """The hooks that note them, alone."""
        captures = self.captures.merged()
        return Attachment(
            self._model, edits={}, captures=captures, flags=channel_flags(self.captures)
        )

    def of_nodes(self, name: str) -> Float[Tensor, "batch pos width"]:
        """At a site."""
        site = self._graph.sites[name]
        live = site_channels(self._live[site.hook_name], site)
        if live.ndim == 4:  # a copy for each head
            live = live[:, :, 0]
        return self._ablated_like(name, live) - live

    def of_edges(self, block: ChannelBlock) -> Float[Tensor, "batch pos src"]:
        """In what the weights of a block are applied to."""
        source = block.source.name
        if not block.through_attention:
            return self.of_nodes(source)
        layer = block.source.layer
        assert layer is not None
        z = self._live[self._anatomy.z(layer)]
        if source not in self._ablated:
            return -z.flatten(2)
        heads = self._ablated_like(source, z.flatten(2)).unflatten(-1, z.shape[2:])
        clip = self._anatomy.value_clip
        if clip is not None:  # what attention takes is v as clipped
            heads = heads.clamp(-clip, clip)
        pattern = self._live[self._anatomy.pattern(layer)].to(z.dtype)
        attended = torch.einsum("bhqk,bkhd->bqhd", pattern, heads.expand_as(z))
        return (attended - z).flatten(2)

    def _ablated_like(
        self, name: str, live: Float[Tensor, "batch pos width"]
    ) -> Float[Tensor, "#batch #pos width"]:
        if name not in self._ablated:
            return torch.zeros_like(live[:1, :1])
        batch, pos = live.shape[:2]
        values = aligned(self._ablated[name], repr(name), leading=0, batch=batch, pos=pos)
        return like(values, live)

    def _keep(self, hook_name: str) -> None:
        def note(value: Tensor) -> None:
            self._live.setdefault(hook_name, value.detach())

        if hook_name not in self.captures:
            self.captures.add(hook_name, note)
