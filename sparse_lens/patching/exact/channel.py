"""Single cuts on a channel graph."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.patching.channel.attachment import channel_flags
from sparse_lens.patching.channel.channel_changes import ChannelChanges
from sparse_lens.patching.exact.passes import Indices, Passes
from sparse_lens.patching.hooks import Attachment, Edit
from sparse_lens.patching.run import run_live


def channel_nodes(passes: Passes) -> Mapping[str, Float[Tensor, " width"]]:
    changes = _changes_of_channels(passes, edges=False)
    graph = passes.bound.graph
    effects = {}
    for name, site in graph.sites.items():
        change = changes.of_nodes(name)
        found = []
        for (channels,) in passes.chunks(torch.arange(site.width)):
            added = _Added(channels, _columns(change, channels), per_head=site.per_head)
            found.append(passes.effects(len(channels), _at(passes, site.hook_name, added)))
        effects[name] = torch.cat(found)
    return effects


def channel_edges(passes: Passes) -> Mapping[str, Float[Tensor, "dst src"]]:
    changes = _changes_of_channels(passes, edges=True)
    graph = passes.bound.graph
    assert isinstance(graph, ChannelGraph)
    weights = graph.edge_weights(passes.model)
    effects = {}
    for name, block in graph.blocks.items():
        destination = block.destination
        weight, change = weights[name], changes.of_edges(block)
        effects[name] = torch.zeros(block.support.shape, device=weight.device)
        for dst, src in passes.chunks(*block.support.nonzero(as_tuple=True)):
            sent = _columns(change, src) * weight[dst, src][:, None, None]
            added = _Added(dst, sent, per_head=destination.per_head)
            attachment = _at(passes, destination.input_hook_name or "", added)
            effects[name][dst, src] = passes.effects(len(dst), attachment)
    return effects


def _changes_of_channels(passes: Passes, *, edges: bool) -> ChannelChanges:
    graph, ablated = passes.bound.graph, passes.bound.values(passes.prompts)
    assert isinstance(graph, ChannelGraph)
    changes = ChannelChanges(passes.model, graph, ablated, edges=edges)
    run_live(passes.model, passes.prompts, changes.attachment())
    return changes


def _columns(change: Tensor, channels: Indices) -> Float[Tensor, "cuts batch pos"]:
    return change[:, :, channels.to(change.device)].permute(2, 0, 1)


def _at(passes: Passes, hook_name: str, edit: Edit) -> Attachment:
    flags = channel_flags([hook_name])
    return Attachment(passes.model, edits={hook_name: edit}, captures={}, flags=flags)


class _Added:
    """In each copy of the batch one channel has something added."""

    def __init__(
        self, channels: Indices, added: Float[Tensor, "cuts batch pos"], *, per_head: bool
    ) -> None:
        self._channels, self._added, self._per_head = channels.to(added.device), added, per_head

    def __call__(self, found: Tensor) -> Tensor:
        changed = found.clone(memory_format=torch.contiguous_format)
        values = changed.flatten(-2) if self._per_head else changed  # channels on the last axis
        copies = values.unflatten(0, self._added.shape[:2])
        copy = torch.arange(len(copies), device=found.device)
        added = self._added.to(found.dtype)
        copies[copy, ..., self._channels] += added[..., None] if copies.ndim == 5 else added
        return changed
