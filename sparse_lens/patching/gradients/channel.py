"""First-order effects of ablating the channels, and cutting the weights, of a channel graph."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.base import Site
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.objectives import Objective
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.channel.attachment import channel_flags, site_channels
from sparse_lens.patching.channel.channel_changes import ChannelChanges
from sparse_lens.patching.gradients.backward import (
    Captured,
    gradients_at,
    keep,
    start_graph,
)
from sparse_lens.patching.gradients.copies import Copies, repeated
from sparse_lens.patching.gradients.points import GradientPoints
from sparse_lens.patching.gradients.relp import add_relp_rules
from sparse_lens.patching.hooks import Attachment, Hooks
from sparse_lens.patching.run import run_live
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
    copies: int,
) -> Mapping[str, Float[Tensor, " width"]]:
    """The sum over positions of (ablated - live channel) * gradient at the channel."""
    runs = _Runs(bound, prompts, objective, points, edges=False, relp=relp, copies=copies)
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
    copies: int,
) -> Mapping[str, Float[Tensor, "dst src"]]:
    """The sum over positions of weight * (ablated - live source) * gradient at the destination."""
    runs = _Runs(bound, prompts, objective, points, edges=True, relp=relp, copies=copies)
    graph, changes = runs.graph, runs.changes
    effects: Effects = {}
    for moved in points.moved(graph, edges=True):
        blocks = [b for b in graph.blocks.values() if moved in (None, b.source.name)]
        hooks = {block.name: block.destination.input_hook_name or "" for block in blocks}
        for gradients in runs.gradients(moved, hooks):
            for block in blocks:
                gradient = _at_channels(gradients[block.name], block.destination).flatten(0, 1)
                _add(effects, block.name, gradient.T @ changes.of_edges(block).flatten(0, 1))
    with torch.no_grad():
        weights = graph.edge_weights(bound.model)
        return {
            block: (weights[block] * effects[block]).float() / len(points.shares)
            for block in graph.blocks
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
        copies: int,
    ) -> None:
        graph = bound.graph
        assert isinstance(graph, ChannelGraph)
        self.graph, self._bound, self._relp = graph, bound, relp
        self._prompts, self._objective, self._points = prompts, objective, points
        self._passes = repeated(bound.model, prompts, objective, points, copies=copies)
        self.changes = ChannelChanges(bound.model, graph, bound.values(prompts), edges=edges)

    def gradients(self, moved: str | None, hooks: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
        """Pass after pass, the gradients at some hook points, by the given names."""
        model = self._bound.model
        if not self.changes.known and not self._points.begin_live:
            run_live(model, self._prompts, self.changes.attachment())
        for copies in self._passes:
            edits, captures = Hooks(), Hooks()
            if copies.moved:
                self._move(moved, copies, edits)
            edits.add(anatomy_of(model).attn_stream(self._layer(moved)), start_graph)
            if self._relp:
                add_relp_rules(model, edits, captures)
            if not self.changes.known:
                captures.update({name: list(c) for name, c in self.changes.captures.items()})
            live: Captured = {}
            for name, hook_name in hooks.items():
                captures.add(hook_name, keep(live, name))
            attachment = Attachment(
                model,
                edits=edits.merged(),
                captures=captures.merged(),
                flags=channel_flags({*edits, *captures}),
            )
            found = gradients_at(live, model, copies, self._objective, attachment)
            yield {name: copies.total(gradient) for name, gradient in found.items()}

    def _layer(self, moved: str | None) -> int:
        """The block in which gradients start."""
        if moved is None:
            return 0
        layer = self.graph.sites[moved].layer
        return self.graph.n_layers - 1 if layer is None else layer

    def _move(self, moved: str | None, copies: Copies, edits: Hooks) -> None:
        """Add the edit of the input, or of a site."""
        if moved is None:
            first_stream = anatomy_of(self._bound.model).first_stream
            edits.add(first_stream, copies.moving(self._change_of_input()))
            return
        site, change = self.graph.sites[moved], self.changes.of_nodes(moved)

        def move(found: Tensor) -> Tensor:
            live = site_channels(found, site)
            per_head = change.unsqueeze(2) if live.ndim == 4 else change
            return copies.moving(per_head)(live).view(found.shape)

        edits.add(site.hook_name, move)

    def _change_of_input(self) -> Float[Tensor, "n pos d_model"]:
        """In the first stream.

        The embedding is no node of a channel graph, so under zeros, means and the like, which say
        nothing of it, it is moved to that of the corrupted prompts.
        """
        model, ablation_tokens = self._bound.model, self._bound.tokens_of(self._prompts)
        if ablation_tokens is None:
            ablation_tokens = self._prompts.corrupted
        with suspended(model), torch.no_grad():
            live, ablated = (
                model(tokens.to(self._bound.device), stop_at_layer=0)
                for tokens in (self._prompts.clean, ablation_tokens)
            )
        return ablated - live


def _at_channels(gradient: Tensor, site: Site) -> Float[Tensor, "batch pos width"]:
    """All channels on the last axis; where each head has a copy, the sum over these."""
    channels = site_channels(gradient, site)
    return channels.sum(2) if channels.ndim == 4 else channels


def _add(effects: Effects, name: str, effect: Tensor) -> None:
    effects[name] = effects[name] + effect if name in effects else effect
