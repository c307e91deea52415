"""Effects of single cuts on a channel graph."""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.patching.channel.attachment import channel_flags
from sparse_lens.patching.channel.channel_changes import ChannelChanges
from sparse_lens.patching.exact.passes import Indices, Passes
from sparse_lens.patching.hooks import Attachment, Edit
from sparse_lens.patching.run import run_live


def channel_nodes(passes: Passes) -> Mapping[str, Float[Tensor, " width"]]:
    """By site: effects of ablating each channel, which adds ablated - live to it."""
    changes = _channel_changes(passes, edges=False)
    graph = passes.bound.graph
    effects = {}
    for name, site in graph.sites.items():
        change = changes.of_nodes(name)
        site_effects = []
        for (channels,) in passes.chunks(torch.arange(site.width)):
            add = _AddToChannel(channels, _columns(change, channels), per_head=site.per_head)
            attachment = _attachment(passes, site.hook_name, add)
            site_effects.append(passes.effects(len(channels), attachment))
        effects[name] = torch.cat(site_effects)
    return effects


def channel_edges(passes: Passes) -> Mapping[str, Float[Tensor, "dst src"]]:
    """By block: effects of cutting each edge, which adds W * (ablated - live source) to its end."""
    changes = _channel_changes(passes, edges=True)
    graph = passes.bound.graph
    assert isinstance(graph, ChannelGraph)
    weights = graph.edge_weights(passes.model)
    effects = {}
    for name, block in graph.blocks.items():
        destination = block.destination
        weight, change = weights[name], changes.of_edges(block)
        effects[name] = torch.zeros(block.support.shape, device=weight.device)
        for dst, src in passes.chunks(*block.support.nonzero(as_tuple=True)):
            sent = _columns(change, src) * weight[dst, src][:, None, None]  # [cuts, batch, pos]
            add = _AddToChannel(dst, sent, per_head=destination.per_head)
            attachment = _attachment(passes, destination.input_hook_name or "", add)
            effects[name][dst, src] = passes.effects(len(dst), attachment)
    return effects


def _channel_changes(passes: Passes, *, edges: bool) -> ChannelChanges:
    graph, ablated = passes.bound.graph, passes.bound.values(passes.prompts)
    assert isinstance(graph, ChannelGraph)
    changes = ChannelChanges(passes.model, graph, ablated, edges=edges)
    run_live(passes.model, passes.prompts, changes.attachment())
    return changes


def _columns(change: Tensor, channels: Indices) -> Float[Tensor, "cuts batch pos"]:
    """The changes of one channel per cut."""
    return rearrange(change[:, :, channels.to(change.device)], "batch pos cut -> cut batch pos")


def _attachment(passes: Passes, hook_name: str, edit: Edit) -> Attachment:
    flags = channel_flags([hook_name])
    return Attachment(passes.model, edits={hook_name: edit}, captures={}, flags=flags)


class _AddToChannel:
    """The edit that adds to one channel in each copy of the batch.

    Args:
        channels: one per copy.
        added: what to add.
        per_head: the hook point's last axes are `[head, d_head]`.
    """

    def __init__(
        self, channels: Indices, added: Float[Tensor, "cuts batch pos"], *, per_head: bool
    ) -> None:
        self._channels, self._added, self._per_head = channels.to(added.device), added, per_head

    def __call__(self, hook_value: Tensor) -> Tensor:
        edited = hook_value.clone(memory_format=torch.contiguous_format)
        channels_last = edited.flatten(-2) if self._per_head else edited  # a view
        # [copy, batch, pos, (head,) width]: heads can read copies of the stream, all of them equal
        copies = channels_last.unflatten(0, self._added.shape[:2])
        copy = torch.arange(len(copies), device=hook_value.device)
        added = self._added.to(hook_value.dtype)
        copies[copy, ..., self._channels] += added[..., None] if copies.ndim == 5 else added
        return edited
