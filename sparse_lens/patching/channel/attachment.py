"""The masked forward pass on a channel graph.

At a site, x becomes n * x + (1 - n) * ablated. A block of edges with weights W and mask m adds
W * (m - 1) applied to (x - ablated) to what arrives at its destination. From v to attn_out that
runs through the live attention pattern.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.base import Site
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.masks import Masks
from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.patching.alignment import aligned, like
from sparse_lens.patching.gating import gate_values
from sparse_lens.patching.hooks import Attachment, Hooks
from sparse_lens.patching.norms import NormScales, freeze_scales

SiteValues = Mapping[str, Float[Tensor, "*batch_pos width"]]
"""Ablated values by site, `[width]`, `[pos, width]` or `[batch, pos, width]`; absent ones are 0."""


def channel_attachment(
    model: HookedTransformer,
    masks: Masks,
    ablated: SiteValues,
    scales: NormScales | None = None,
) -> Attachment:
    """Hooks that make the model the circuit; see `component_attachment` for the arguments."""
    graph = masks.graph
    assert isinstance(graph, ChannelGraph)
    run = _Run(ablated)
    edits, captures = Hooks(), Hooks()
    freeze_scales(scales or {}, edits)
    # Edges before nodes: where both act at one hook point, the sum arrives first.
    weights = graph.edge_weights(model) if masks.edges else {}
    for name, mask in masks.edges.items():
        edges = graph.blocks[name]
        if mask.requires_grad or bool(((mask != 1).cpu() & edges.support).any()):
            parts = (run, edges.source, edges.destination, mask, weights[name])
            if edges.through_attention:
                _CutValueEdges(*parts, anatomy=anatomy_of(model)).attach(edits, captures)
            else:
                _CutEdges(*parts).attach(edits, captures)
    for name, gate in masks.nodes.items():
        if gate.requires_grad or bool((gate != 1).any()):
            edits.add(graph.sites[name].hook_name, _GateNodes(run, graph.sites[name], gate))
    return Attachment(
        model,
        edits=edits.merged(),
        captures=captures.merged(),
        flags=channel_flags({*edits, *captures}),
        on_start=run.start,
    )


def channel_flags(hook_names: Iterable[str]) -> dict[str, bool]:
    """Flags without which some of these hook points do not fire.

    They are what the sublayers of a model without norms read.
    """
    flags = {"hook_attn_in": "use_attn_in", "hook_mlp_in": "use_hook_mlp_in"}
    used = {name.rsplit(".", 1)[-1] for name in hook_names}
    return {flag: True for point, flag in flags.items() if point in used}


def site_channels(found: Tensor, site: Site) -> Float[Tensor, "batch pos *head width"]:
    """All channels of a site on the last axis.

    Before that stands a head axis where each head reads a copy of its own.
    """
    return found.flatten(-2) if site.per_head else found


class _Run:
    """Ablated values, and where in a key-value cache the current forward pass stands."""

    def __init__(self, ablated: SiteValues) -> None:
        self._ablated = ablated
        self._offset = 0

    def start(self, offset: int) -> None:
        """A forward pass begins, after this many cached positions."""
        self._offset = offset

    def ablated(self, name: str, live: Tensor, *, keys: int | None = None) -> Tensor | None:
        """The ablated values of a site, broadcasting to `live` `[batch, pos, (head,) width]`.

        With `keys`, of that many positions from the first on, cached ones included.
        """
        values = self._ablated.get(name)
        if values is None:
            return None
        batch, pos = live.shape[:2]
        offset = self._offset if keys is None else 0
        values = aligned(values, repr(name), leading=0, batch=batch, pos=keys or pos, offset=offset)
        if live.ndim == 4:
            values = values.unsqueeze(2)
        return like(values, live)


class _GateNodes:
    """Nodes of a site carry their ablated values as far as their gates are closed."""

    def __init__(self, run: _Run, site: Site, gate: Float[Tensor, " width"]) -> None:
        self._run, self._site, self._gate = run, site, gate

    def __call__(self, found: Tensor) -> Tensor:
        live = site_channels(found, self._site)
        gated = gate_values(live, self._gate, self._run.ablated(self._site.name, live))
        return gated.view(found.shape)


class _CutEdges:
    """Weights from a site to another that carry their source's ablated value."""

    def __init__(
        self,
        run: _Run,
        source: Site,
        destination: Site,
        mask: Float[Tensor, "dst src"],
        weight: Float[Tensor, "dst src"],
    ) -> None:
        self._run, self._source, self._destination = run, source, destination
        self._mask, self._weight = mask, weight
        self._live: Tensor | None = None

    def attach(self, edits: Hooks, captures: Hooks) -> None:
        """Add the hooks."""
        captures.add(self._source.hook_name, self._keep)
        assert self._destination.input_hook_name is not None
        edits.add(self._destination.input_hook_name, self)

    def _keep(self, found: Tensor) -> None:
        self._live = found

    def __call__(self, found: Tensor) -> Tensor:
        cut = (self._mask.to(self._weight.device) - 1) * self._weight
        change = F.linear(self._difference().to(self._weight.dtype), cut.to(self._weight.dtype))
        return found + change.to(found.dtype).reshape(found.shape)

    def _difference(self) -> Float[Tensor, "batch pos src"]:
        """live - ablated"""
        assert self._live is not None
        live = site_channels(self._live, self._source)
        live = live[:, :, 0] if live.ndim == 4 else live
        ablated = self._run.ablated(self._source.name, live)
        return live if ablated is None else live - ablated


class _CutValueEdges(_CutEdges):
    """Edges from v to attn_out, through the live attention pattern."""

    def __init__(self, *parts: Any, anatomy: Anatomy) -> None:
        super().__init__(*parts)
        self._anatomy = anatomy
        self._pattern: Tensor | None = None

    def attach(self, edits: Hooks, captures: Hooks) -> None:
        layer = self._source.layer
        assert layer is not None
        captures.add(self._anatomy.z(layer), self._keep)
        captures.add(self._anatomy.pattern(layer), self._keep_pattern)
        assert self._destination.input_hook_name is not None
        edits.add(self._destination.input_hook_name, self)

    def _keep_pattern(self, pattern: Float[Tensor, "batch head query key"]) -> None:
        self._pattern = pattern

    def _difference(self) -> Float[Tensor, "batch pos src"]:
        """z - pattern @ ablated v, of all heads"""
        assert self._live is not None
        assert self._pattern is not None
        z = self._live
        pattern = self._pattern.to(z.dtype)
        ablated = self._run.ablated(self._source.name, z.flatten(2), keys=pattern.shape[-1])
        if ablated is None:
            return z.flatten(2)
        clip = self._anatomy.value_clip
        if clip is not None:  # what attention takes is v as clipped
            ablated = ablated.clamp(-clip, clip)
        heads = ablated.unflatten(-1, z.shape[2:]).expand(len(z), pattern.shape[-1], -1, -1)
        attended = torch.einsum("bhqk,bkhd->bqhd", pattern, heads)
        return (z - attended).flatten(2)
