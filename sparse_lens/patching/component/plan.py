"""Which writers and readers of a component graph a circuit's forward pass has to touch."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.graphs.reachability import Acting
from sparse_lens.masks import Masks
from sparse_lens.models.anatomy import anatomy_of


@dataclass(frozen=True, eq=False)
class Plan:
    """A circuit as gates on writers and cuts on edges.

    A gated writer puts its ablated value in the stream itself, for all readers at once. What is
    left are edges that are cut for some readers only: these readers are intercepted.
    """

    gates: Float[Tensor, " writers"]
    """Share of its live value that each writer writes."""

    gated: list[bool]
    """By writer: whether its gate is not known to be 1."""

    cut: Float[Tensor, "readers stored"]
    """Share of (ablated - live) that each reader takes from each stored writer, in addition."""

    stored: list[bool]
    """By writer: whether it is cut from some readers, so that its output is needed."""

    intercepted: list[bool]
    """By reader: whether something is cut from it."""

    @classmethod
    def of(cls, model: HookedTransformer, masks: Masks) -> "Plan":
        """The plan for masks; by their values, except where they need gradients."""
        graph = masks.graph
        assert isinstance(graph, ComponentGraph)
        device = model.cfg.device
        gates, gated = _node_gates(graph, masks, device)
        logits = masks.nodes.get("logits")
        kept = _edge_gates(graph, masks, logits, device)
        coupled = anatomy_of(model).heads_are_coupled
        if coupled:
            kept = kept * _rows_of_open_heads(graph, gates)[:, None]
        differentiable = gates.requires_grad or kept.requires_grad
        support = graph.block.support.to(gates.device)
        if differentiable:
            matters = torch.ones(graph.n_readers, dtype=torch.bool)
        else:
            kept_edges = ((kept > 0) & (gates > 0) & support).cpu().numpy()
            acting = Acting.of(graph, kept_edges, coupled=coupled)
            heard, matters = torch.from_numpy(acting.writers), torch.from_numpy(acting.readers)
            gates, gated = gates * heard.to(gates.device), gated | ~heard
        cut = (1 - kept) * support
        touched = _possibly_nonzero(cut) & matters[:, None] & _possibly_nonzero(gates)
        intercepted, stored = touched.any(1), touched.any(0)
        scale = torch.where(_stored_before_gate(graph).to(gates.device), gates, 1)
        return cls(
            gates=gates,
            gated=gated.tolist(),
            cut=(cut * scale)[:, stored.to(cut.device)],
            stored=stored.tolist(),
            intercepted=intercepted.tolist(),
        )


def _possibly_nonzero(values: Tensor) -> Bool[Tensor, "..."]:
    if values.requires_grad:
        return torch.ones(values.shape, dtype=torch.bool)
    return (values != 0).cpu()


def _node_gates(
    graph: ComponentGraph, masks: Masks, device: Any
) -> tuple[Float[Tensor, " writers"], Bool[Tensor, " writers"]]:
    """Gates of all writers, and which of these are not known to be 1."""
    gates, gated = [], []
    for name, site in graph.sites.items():
        if name == "logits":
            continue
        gate = masks.nodes.get(name)
        gates.append(torch.ones(site.width, device=device) if gate is None else gate.to(device))
        gated.append(_possibly_nonzero(1 - gates[-1]))
    return torch.cat(gates), torch.cat(gated)


def _edge_gates(
    graph: ComponentGraph, masks: Masks, logits: Tensor | None, device: Any
) -> Float[Tensor, "readers writers"]:
    """Masks of all edges; pruned logits hear nobody."""
    kept = masks.edges.get(EDGES)
    shape = (graph.n_readers, graph.n_writers)
    kept = torch.ones(shape, device=device) if kept is None else kept.to(device)
    if logits is None:
        return kept
    return torch.cat([kept[:-1], kept[-1:] * logits.to(device)])


def _rows_of_open_heads(
    graph: ComponentGraph, gates: Float[Tensor, " writers"]
) -> Float[Tensor, " readers"]:
    """0 for q, k and v of pruned heads, else 1.

    Where heads act on each other directly, a pruned head would still do so with what it reads.
    """
    rows = torch.ones(graph.n_readers, device=gates.device)
    open_ = (gates.detach() > 0).to(rows.dtype)
    for sublayer in graph.sublayers:
        if sublayer.kind == "heads":
            rows[sublayer.readers] = open_[sublayer.writers].repeat(3)
    return rows


def _stored_before_gate(graph: ComponentGraph) -> Bool[Tensor, " writers"]:
    """Writers of which the live output is stored, not what their gate made of it.

    Outputs of MLPs, and of the embedding when it is one writer, are seen as they are written.
    """
    stored = torch.ones(graph.n_writers, dtype=torch.bool)
    stored[: graph.n_inputs] = graph.split_embeddings
    for sublayer in graph.sublayers:
        stored[sublayer.writers] = sublayer.kind == "heads"
    return stored
