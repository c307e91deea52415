"""First-order effects of ablating the channels, and cutting the weights, of a channel graph."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.base import Site
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.masks import Masks
from sparse_lens.objectives import Objective
from sparse_lens.patching.binding import BoundAblation, BoundInterchange
from sparse_lens.patching.channel.attachment import channel_attachment, channel_flags, site_channels
from sparse_lens.patching.component.writers import FIRST_STREAM
from sparse_lens.patching.gradients.backward import (
    Captured,
    gradients_at,
    keep,
    run_live,
    start_graph,
)
from sparse_lens.patching.gradients.channel_changes import ChannelChanges
from sparse_lens.patching.gradients.points import GradientPoints
from sparse_lens.patching.gradients.relp import add_relp_rules
from sparse_lens.patching.hooks import Attachment, Edit, Hooks
from sparse_lens.patching.suspension import suspended
from sparse_lens.task import Prompts

Effects = dict[str, Tensor]


def channel_node_effects(
    bound: BoundAblation,
    prompts: Prompts,
    objective: Objective,
    points: GradientPoints,
    *,
    relp: bool,
) -> Mapping[str, Float[Tensor, " width"]]:
    """The sum over positions of (ablated - live channel) * gradient at the channel."""
    runs = _Runs(bound, prompts, objective, points, edges=False, relp=relp)
    graph, changes = runs.graph, runs.changes
    effects: Effects = {}
    for moved in points.moved(graph, edges=False):
        names = list(graph.sites) if moved is None else [moved]
        hooks = {name: graph.sites[name].hook_name for name in names}
        for gradients in runs.gradients(moved, hooks):
            for name in names:
                gradient = _at_channels(gradients[name], graph.sites[name])
                effect = (changes.of_nodes(name) * gradient).flatten(0, 1)
                _add(effects, name, effect.sum(0, dtype=torch.float32))
    return {name: effects[name] / len(points.shares) for name in graph.sites}


def channel_edge_effects(
    bound: BoundAblation,
    prompts: Prompts,
    objective: Objective,
    points: GradientPoints,
    *,
    relp: bool,
) -> Mapping[str, Float[Tensor, "dst src"]]:
    """The sum over positions of weight * (ablated - live source) * gradient at the destination."""
    runs = _Runs(bound, prompts, objective, points, edges=True, relp=relp)
    graph, changes = runs.graph, runs.changes
    effects: Effects = {}
    for moved in points.moved(graph, edges=True):
        blocks = {}
        for block in graph.edge_support:
            source, destination = block.split("->")
            if moved in (None, source):
                blocks[block] = graph.sites[destination]
        hooks = {block: site.input_hook_name or "" for block, site in blocks.items()}
        for gradients in runs.gradients(moved, hooks):
            for block, site in blocks.items():
                gradient = _at_channels(gradients[block], site).flatten(0, 1)
                _add(effects, block, gradient.T @ changes.of_edges(block).flatten(0, 1))
    with torch.no_grad():
        weights = graph.edge_weights(bound.model)
        return {
            block: (weights[block] * effects[block]).float() / len(points.shares)
            for block in graph.edge_support
        }


class _Runs:
    """The runs at which gradients are taken, and the changes that these are multiplied with."""

    def __init__(
        self,
        bound: BoundAblation,
        prompts: Prompts,
        objective: Objective,
        points: GradientPoints,
        *,
        edges: bool,
        relp: bool,
    ) -> None:
        graph = bound.graph
        assert isinstance(graph, ChannelGraph)
        self.graph, self._bound, self._relp = graph, bound, relp
        self._prompts, self._objective, self._points = prompts, objective, points
        self.changes = ChannelChanges(bound, prompts, edges=edges)

    def gradients(self, moved: str | None, hooks: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
        """At each share in turn, the gradients at some hook points, by the given names."""
        model, points = self._bound.model, self._points
        if not self.changes.known and not points.begin_live:
            run_live(model, self._prompts, self.changes.attachment())
        start = _embedded(self._bound, self._prompts) if self._moves_input(moved) else None
        for share in points.shares:
            edits, captures = Hooks(), Hooks()
            if start is not None and share < 1:
                edits.add(FIRST_STREAM, _between(start, share))
            layer = self._layer(moved)
            edits.add(f"blocks.{layer}.hook_resid_pre", start_graph)
            if self._relp:
                add_relp_rules(model, edits, captures)
            if not self.changes.known:
                captures.update({name: list(c) for name, c in self.changes.captures.items()})
            live: Captured = {}
            for name, hook_name in hooks.items():
                captures.add(hook_name, keep(live, name))
            attachments = [
                *self._gate(moved, share),
                Attachment(
                    model,
                    edits=edits.merged(),
                    captures=captures.merged(),
                    flags=channel_flags(captures),
                ),
            ]
            yield gradients_at(live, model, self._prompts, self._objective, attachments)

    def _moves_input(self, moved: str | None) -> bool:
        return moved is None and min(self._points.shares) < 1

    def _layer(self, moved: str | None) -> int:
        """The block in which gradients start."""
        if moved is None:
            return 0
        layer = self.graph.sites[moved].layer
        return self.graph.n_layers - 1 if layer is None else layer

    def _gate(self, moved: str | None, share: float) -> list[Attachment]:
        if moved is None or share == 1:
            return []
        width = self.graph.sites[moved].width
        gate = torch.full((width,), share, device=self._bound.model.cfg.device)
        masks = Masks(self.graph, {moved: gate}, {})
        return [channel_attachment(self._bound.model, masks, self.changes.ablated)]


def _embedded(bound: BoundAblation, prompts: Prompts) -> Float[Tensor, "n pos d_model"]:
    """The first stream of the prompts that the input is moved to.

    The embedding is no node of a channel graph, so under zeros and means, which say nothing of it,
    these are the corrupted prompts, too.
    """
    tokens: Int[Tensor, "n pos"] = prompts.corrupted
    if isinstance(bound, BoundInterchange) and bound.tokens is not None:
        tokens = bound.tokens
    model: HookedTransformer = bound.model
    with suspended(model), torch.no_grad():
        return model(tokens.to(model.cfg.device), stop_at_layer=0)


def _between(start: Tensor, share: float) -> Edit:
    return lambda stream: torch.lerp(start, stream, share)


def _at_channels(gradient: Tensor, site: Site) -> Float[Tensor, "batch pos width"]:
    """All channels on the last axis; where each head has a copy, the sum over these."""
    channels = site_channels(gradient, site)
    return channels.sum(2) if channels.ndim == 4 else channels


def _add(effects: Effects, name: str, effect: Tensor) -> None:
    effects[name] = effects[name] + effect if name in effects else effect
