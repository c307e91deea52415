"""The masked forward pass on a channel graph.

At a site, x becomes n * x + (1 - n) * ablated. A block of edges with weights W and mask m adds
W * (m - 1) applied to (x - ablated) to what arrives at its destination. From v to attn_out that
runs through the live attention pattern.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.masks import Masks
from sparse_lens.patching.hooks import Attachment, Edit, in_turn

SiteValues = Mapping[str, Float[Tensor, "*batch_pos width"]]
"""Ablated values by site, `[width]`, `[pos, width]` or `[batch, pos, width]`; absent ones are 0."""


def channel_attachment(model: HookedTransformer, masks: Masks, ablated: SiteValues) -> Attachment:
    """Hooks that make the model the circuit."""
    pass_ = _MaskedPass(model, masks, ablated)
    return Attachment(
        model,
        edits={name: in_turn(edits) for name, edits in pass_.edits.items()},
        captures={name: in_turn(captures) for name, captures in pass_.captures.items()},
        flags=channel_flags(model),
    )


def channel_flags(model: HookedTransformer) -> dict[str, bool]:
    """Flags that give a model without norms hook points at what its sublayers read."""
    if model.cfg.normalization_type is not None or hasattr(model, "sparse_cfg"):
        return {}
    flags = {"use_attn_in": True}
    if not model.cfg.attn_only:
        flags["use_hook_mlp_in"] = True
    return flags


class _MaskedPass:
    def __init__(self, model: HookedTransformer, masks: Masks, ablated: SiteValues) -> None:
        graph = masks.graph
        assert isinstance(graph, ChannelGraph)
        self.model, self.graph, self.ablated = model, graph, ablated
        self.edits: dict[str, list[Edit]] = {}
        self.captures: dict[str, list[Edit]] = {}
        self._live: dict[str, Tensor] = {}
        self._weights = graph.edge_weights(model) if masks.edges else {}
        # Edges before nodes: where both act at one hook point, the sum arrives first.
        for block, mask in masks.edges.items():
            support = graph.edge_support[block].to(mask.device)
            if mask.requires_grad or bool((mask < 1)[support].any()):
                self._cut_edges(block, mask)
        for name, gate in masks.nodes.items():
            if gate.requires_grad or bool((gate < 1).any()):
                self._edit(graph.sites[name].hook_name, self._gate_nodes(name, gate))

    def _edit(self, hook_name: str, edit: Edit) -> None:
        self.edits.setdefault(hook_name, []).append(edit)

    def _capture(self, hook_name: str, key: str) -> None:
        def keep(value: Tensor) -> None:
            self._live[key] = value

        if key not in self._live:
            self._live[key] = torch.empty(0)  # marks the capture as made
            self.captures.setdefault(hook_name, []).append(keep)

    def _gate_nodes(self, name: str, gate: Float[Tensor, " width"]) -> Edit:
        site = self.graph.sites[name]

        def edit(found: Tensor) -> Tensor:
            flat, restore = as_channels(found, site.width)
            kept = gate.to(device=flat.device, dtype=flat.dtype)
            ablated = self._ablated(name, flat)
            if ablated is None:
                return restore(flat * kept)
            return restore(torch.lerp(ablated.expand_as(flat), flat, kept))

        return edit

    def _ablated(self, name: str, like: Tensor) -> Tensor | None:
        """The ablated value of a site, broadcasting to `like` [batch, pos, (head,) width]."""
        ablated = self.ablated.get(name)
        if ablated is None:
            return None
        ablated = ablated.to(device=like.device, dtype=like.dtype)
        wanted = like.shape[: min(ablated.ndim - 1, 2)] if ablated.ndim == 3 else like.shape[1:2]
        if ablated.ndim > 1 and ablated.shape[:-1] != wanted:
            raise ValueError(
                f"the ablated values of {name!r} are for tokens of shape "
                f"{tuple(ablated.shape[:-1])}, the circuit runs on {tuple(wanted)}; bind the "
                "ablation to these tokens."
            )
        if ablated.ndim > 1 and like.ndim == 4:  # split inputs have a head dimension
            ablated = ablated.unsqueeze(-2)
        return ablated

    def _cut_edges(self, block: str, mask: Float[Tensor, "dst src"]) -> None:
        source, destination = (self.graph.sites[name] for name in block.split("->"))
        weight = self._weights[block]
        through_attention = block.endswith(".attn_out")
        if through_attention:
            layer = f"blocks.{source.layer}.attn"
            self._capture(f"{layer}.hook_z", f"{layer}.z")
            if source.name in self.ablated:
                self._capture(f"{layer}.hook_pattern", f"{layer}.pattern")
        else:
            self._capture(source.hook_name, source.name)

        def edit(found: Tensor) -> Tensor:
            flat, restore = as_channels(found, destination.width)
            cut = (mask.to(weight.device) - 1).to(weight.dtype) * weight
            if through_attention:
                difference = self._attended_difference(source.name)
            else:
                live, _ = as_channels(self._live[source.name], source.width)
                live = live[:, :, 0] if live.ndim == 4 else live
                ablated = self._ablated(source.name, live)
                difference = live if ablated is None else live - ablated
            return restore(flat + F.linear(difference.to(weight.dtype), cut).to(flat.dtype))

        assert destination.input_hook_name is not None
        self._edit(destination.input_hook_name, edit)

    def _attended_difference(self, name: str) -> Float[Tensor, "batch pos channels"]:
        """z - pattern @ ablated v, of all heads."""
        layer = name.removesuffix(".v") + ".attn"
        z = self._live[f"{layer}.z"]  # [batch, pos, head, d_head]
        ablated = self._ablated(name, z.flatten(2))
        if ablated is None:
            return z.flatten(2)
        pattern = self._live[f"{layer}.pattern"].to(z.dtype)  # [batch, head, query, key]
        heads = ablated.unflatten(-1, z.shape[2:])
        if ablated.ndim == 1:
            attended = torch.einsum("bhqk,hd->bqhd", pattern, heads)
        elif ablated.ndim == 2:
            attended = torch.einsum("bhqk,khd->bqhd", pattern, heads)
        else:
            attended = torch.einsum("bhqk,bkhd->bqhd", pattern, heads)
        return (z - attended).flatten(2)


def as_channels(found: Tensor, width: int):
    """A hook point's value with all channels of the site on the last axis, and the way back."""
    if found.shape[-1] == width:
        return found, lambda flat: flat
    shape = found.shape
    return found.flatten(-2), lambda flat: flat.reshape(shape)
