"""First-order effects of ablating the channels, and of cutting the edges, of a channel graph."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.base import Site
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.channel.attachment import channel_flags, site_channels
from sparse_lens.patching.channel.channel_changes import ChannelChanges
from sparse_lens.patching.gradients.attribution import Attribution
from sparse_lens.patching.gradients.backward import (
    Captured,
    capture_into,
    gradients_at,
    start_graph,
)
from sparse_lens.patching.gradients.copies import Copies
from sparse_lens.patching.gradients.relp import add_relp_rules
from sparse_lens.patching.hooks import Attachment, Hooks
from sparse_lens.patching.run import run_live
from sparse_lens.patching.suspension import suspended

Effects = dict[str, Tensor]


def channel_node_effects(attribution: Attribution) -> Mapping[str, Float[Tensor, " width"]]:
    """By site: the sum over prompts and positions of (ablated - live) * dL/d(channel)."""
    runs, points = _Runs(attribution, edges=False), attribution.points
    graph, changes = runs.graph, runs.changes
    effects: Effects = {}
    for moved in points.moved(graph, edges=False):
        names = list(graph.sites) if moved is None else [moved]
        hooks = {name: graph.sites[name].hook_name for name in names}
        for gradients in runs.gradients(moved, hooks):
            for name in names:
                gradient = _sum_over_copies(gradients[name], graph.sites[name])
                effect = (changes.of_nodes(name) * gradient).flatten(0, 1)  # [tokens, width]
                _add(effects, name, effect.sum(0, dtype=torch.float32))
    return {name: effects[name] / len(points.shares) for name in graph.sites}


def channel_edge_effects(attribution: Attribution) -> Mapping[str, Float[Tensor, "dst src"]]:
    """By block: the sum over prompts and positions of W * (ablated - live source) * dL/d(dst).

    W is the same for all tokens, so the sum over them is one matrix product per block,
    gradient^T @ change, of shape [dst, src], which W multiplies at the end.
    """
    runs, points = _Runs(attribution, edges=True), attribution.points
    graph, changes = runs.graph, runs.changes
    effects: Effects = {}
    for moved in points.moved(graph, edges=True):
        blocks = [b for b in graph.blocks.values() if moved in (None, b.source.name)]
        hooks = {block.name: block.destination.input_hook_name or "" for block in blocks}
        for gradients in runs.gradients(moved, hooks):
            for block in blocks:
                gradient = _sum_over_copies(gradients[block.name], block.destination)
                change = changes.of_edges(block)
                # A norm holds float32 in a model of lower precision: of both factors, or of one.
                dtype = torch.promote_types(change.dtype, torch.float32)
                gradient, change = (factor.flatten(0, 1).to(dtype) for factor in (gradient, change))
                _add(effects, block.name, gradient.T @ change)
    with torch.no_grad():
        weights = graph.edge_weights(attribution.bound.model)
        return {
            block: weights[block] * effects[block] / len(points.shares) for block in graph.blocks
        }


class _Runs:
    """The runs in which gradients are taken, and the changes to multiply them by."""

    def __init__(self, attribution: Attribution, *, edges: bool) -> None:
        bound, graph = attribution.bound, attribution.bound.graph
        assert isinstance(graph, ChannelGraph)
        self._attribution, self._model, self.graph = attribution, bound.model, graph
        ablated = bound.values(attribution.prompts)
        self.changes = ChannelChanges(bound.model, graph, ablated, edges=edges)

    def gradients(self, moved: str | None, hooks: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
        """For each pass, the gradients at hook points, by the given names.

        Args:
            moved: the site whose values are moved towards the ablated ones; None for the input.
            hooks: hook points by the name under which their gradients are returned.
        """
        attribution, model = self._attribution, self._model
        if not self.changes.known and not attribution.points.begin_live:
            run_live(model, attribution.prompts, self.changes.attachment())
        for copies in attribution.passes:
            edits, captures = Hooks(), Hooks()
            if copies.moved:
                self._move(moved, copies, edits)
            edits.add(anatomy_of(model).attn_stream(self._layer(moved)), start_graph)
            if attribution.relp:
                add_relp_rules(model, edits, captures)
            if not self.changes.known:  # this pass is the live run: take the changes from it
                captures.update({name: list(c) for name, c in self.changes.captures.items()})
            live: Captured = {}
            for name, hook_name in hooks.items():
                captures.add(hook_name, capture_into(live, name))
            attachment = Attachment(
                model,
                edits=edits.merged(),
                captures=captures.merged(),
                flags=channel_flags({*edits, *captures}),
            )
            gradients = gradients_at(live, model, copies, attribution.objective, attachment)
            yield {name: copies.total(gradient) for name, gradient in gradients.items()}

    def _layer(self, moved: str | None) -> int:
        """The layer in which gradients start: no gradient before the moved site is needed."""
        if moved is None:
            return 0
        layer = self.graph.sites[moved].layer
        return self.graph.n_layers - 1 if layer is None else layer

    def _move(self, moved: str | None, copies: Copies, edits: Hooks) -> None:
        """Add the edit that moves the input or a site towards its ablated value."""
        if moved is None:
            first_stream = anatomy_of(self._model).first_stream
            edits.add(first_stream, copies.moving(self._change_of_input()))
            return
        site, change = self.graph.sites[moved], self.changes.of_nodes(moved)

        def move(hook_value: Tensor) -> Tensor:
            live = site_channels(hook_value, site)
            per_head = change.unsqueeze(2) if live.ndim == 4 else change
            return copies.moving(per_head)(live).view(hook_value.shape)

        edits.add(site.hook_name, move)

    def _change_of_input(self) -> Float[Tensor, "n pos d_model"]:
        """ablated - live of the residual stream before the first layer.

        The embedding is not a node of a channel graph, so ablations without tokens, such as zeros
        and means, have no value for it: then it is moved to that of the corrupted prompts.
        """
        bound, prompts = self._attribution.bound, self._attribution.prompts
        ablation_tokens = bound.tokens_of(prompts)
        if ablation_tokens is None:
            ablation_tokens = prompts.corrupted
        with suspended(bound.model), torch.no_grad():
            live, ablated = (
                bound.model(tokens.to(bound.device), stop_at_layer=0)
                for tokens in (prompts.clean, ablation_tokens)
            )
        return ablated - live


def _sum_over_copies(gradient: Tensor, site: Site) -> Float[Tensor, "batch pos width"]:
    """The gradient at a site's channels: summed over the copies that heads read, if they do."""
    channels = site_channels(gradient, site)
    return channels.sum(2) if channels.ndim == 4 else channels


def _add(effects: Effects, name: str, effect: Tensor) -> None:
    effects[name] = effects[name] + effect if name in effects else effect
