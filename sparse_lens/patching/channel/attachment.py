"""The masked forward pass on a channel graph.

With gates n on the channels of a site and their ablated values a, x becomes n * x + (1 - n) * a.

An edge with weight W and mask m sends W (m x + (1 - m) a) instead of W x. The sum at the
destination therefore changes by ((1 - m) * W) @ (a - x), which is added at the hook point where it
arrives; the model's own product W x is left as it is. On the edges from v to attn_out, x is z, the
values mixed by the live attention pattern, and a the ablated values mixed by the same pattern.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from einops import einsum
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
    """Hooks with which the model runs as the circuit; see `component_attachment` for arguments."""
    graph = masks.graph
    assert isinstance(graph, ChannelGraph)
    run = _ForwardState(ablated)
    edits, captures = Hooks(), Hooks()
    freeze_scales(scales or {}, edits)
    # Edges before nodes: at a hook point that has both, the sum over edges is complete first.
    weights = graph.edge_weights(model) if masks.edges else {}
    for name, mask in masks.edges.items():
        block = graph.blocks[name]
        if mask.requires_grad or bool(((mask != 1).cpu() & block.support).any()):
            arguments = (run, block.source, block.destination, mask, weights[name])
            if block.through_attention:
                _CutValueEdges(*arguments, anatomy=anatomy_of(model)).attach(edits, captures)
            else:
                _CutEdges(*arguments).attach(edits, captures)
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
    """The flags that must be set for these hook points to be called.

    In a model without norms, `hook_attn_in` and `hook_mlp_in` are what the sublayers read.
    """
    flags = {"hook_attn_in": "use_attn_in", "hook_mlp_in": "use_hook_mlp_in"}
    roles = {name.rsplit(".", 1)[-1] for name in hook_names}
    return {flag: True for role, flag in flags.items() if role in roles}


def site_channels(hook_value: Tensor, site: Site) -> Float[Tensor, "batch pos *head width"]:
    """The value at a site's hook point with all its channels on the last axis.

    At `hook_attn_in` there is a head axis before it: every head reads a copy of the stream.
    """
    return hook_value.flatten(-2) if site.per_head else hook_value


class _ForwardState:
    """Ablated values, and how many positions precede the current forward pass in its cache."""

    def __init__(self, ablated: SiteValues) -> None:
        self._ablated = ablated
        self._offset = 0

    def start(self, offset: int) -> None:
        """Called at the start of a forward pass with the number of positions in its cache."""
        self._offset = offset

    def ablated(self, name: str, live: Tensor, *, keys: int | None = None) -> Tensor | None:
        """The ablated values of a site, broadcastable to `live` `[batch, pos, (head,) width]`.

        None stands for zeros.

        Args:
            keys: take the values of the first so many positions, including cached ones, instead of
                those of the current forward pass.
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
    """The edit that gates the nodes of a site."""

    def __init__(self, run: _ForwardState, site: Site, gate: Float[Tensor, " width"]) -> None:
        self._run, self._site, self._gate = run, site, gate

    def __call__(self, hook_value: Tensor) -> Tensor:
        live = site_channels(hook_value, self._site)
        gated = gate_values(live, self._gate, self._run.ablated(self._site.name, live))
        return gated.view(hook_value.shape)


class _CutEdges:
    """The edit at a block's destination that adds ((1 - m) * W) @ (ablated - live source)."""

    def __init__(
        self,
        run: _ForwardState,
        source: Site,
        destination: Site,
        mask: Float[Tensor, "dst src"],
        weight: Float[Tensor, "dst src"],
    ) -> None:
        self._run, self._source, self._destination = run, source, destination
        self._mask, self._weight = mask, weight
        self._live: Tensor | None = None

    def attach(self, edits: Hooks, captures: Hooks) -> None:
        """Add a capture at the source and the edit at the destination."""
        captures.add(self._source.hook_name, self._capture_live)
        assert self._destination.input_hook_name is not None
        edits.add(self._destination.input_hook_name, self)

    def _capture_live(self, hook_value: Tensor) -> None:
        self._live = hook_value

    def __call__(self, hook_value: Tensor) -> Tensor:
        cut_weight = (1 - self._mask.to(self._weight.device)) * self._weight  # [dst, src]
        dtype = self._weight.dtype
        change = F.linear(self._difference().to(dtype), cut_weight.to(dtype))  # [batch, pos, dst]
        # Queries, keys and values have the axes [head, d_head] in the place of dst.
        return hook_value + change.to(hook_value.dtype).reshape(hook_value.shape)

    def _difference(self) -> Float[Tensor, "batch pos src"]:
        """ablated - live"""
        assert self._live is not None
        live = site_channels(self._live, self._source)
        live = live[:, :, 0] if live.ndim == 4 else live  # all heads read the same
        ablated = self._run.ablated(self._source.name, live)
        return -live if ablated is None else ablated - live


class _CutValueEdges(_CutEdges):
    """The same for edges from v to attn_out, whose sources pass the live attention pattern."""

    def __init__(self, *arguments: Any, anatomy: Anatomy) -> None:
        super().__init__(*arguments)
        self._anatomy = anatomy
        self._pattern: Tensor | None = None

    def attach(self, edits: Hooks, captures: Hooks) -> None:
        layer = self._source.layer
        assert layer is not None
        captures.add(self._anatomy.z(layer), self._capture_live)
        captures.add(self._anatomy.pattern(layer), self._capture_pattern)
        assert self._destination.input_hook_name is not None
        edits.add(self._destination.input_hook_name, self)

    def _capture_pattern(self, pattern: Float[Tensor, "batch head query key"]) -> None:
        self._pattern = pattern

    def _difference(self) -> Float[Tensor, "batch pos src"]:
        """pattern @ ablated v - z, of all heads"""
        assert self._live is not None
        assert self._pattern is not None
        z = self._live  # [batch, query, head, d_head]
        n_keys = self._pattern.shape[-1]
        ablated = self._run.ablated(self._source.name, z.flatten(2), keys=n_keys)
        if ablated is None:
            return -z.flatten(2)
        ablated = ablated.unflatten(-1, z.shape[2:])  # [batch or 1, key or 1, head, d_head]
        return (attended_values(self._pattern, ablated, self._anatomy) - z).flatten(2)


def attended_values(
    pattern: Float[Tensor, "batch head query key"],
    values: Float[Tensor, "#batch #key head d_head"],
    anatomy: Anatomy,
) -> Float[Tensor, "batch query head d_head"]:
    """Values mixed by an attention pattern, after the clip that attention applies to them."""
    clip = anatomy.value_clip
    if clip is not None:
        values = values.clamp(-clip, clip)
    values = values.expand(len(pattern), pattern.shape[-1], -1, -1)
    pattern = pattern.to(values.dtype)
    return einsum(
        pattern,
        values,
        "batch head query key, batch key head d_head -> batch query head d_head",
    )
