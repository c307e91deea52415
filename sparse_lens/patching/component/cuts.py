"""A circuit of a component graph as gates on its writers and cuts at its readers."""

from dataclasses import dataclass

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.graphs.reachability import Acting
from sparse_lens.masks import Masks
from sparse_lens.models.anatomy import anatomy_of


@dataclass(frozen=True, eq=False)
class Cuts:
    """What the masked pass has to do, and to whom.

    A gated writer puts its ablated value into the stream itself, for all readers at once. What is
    left are edges that are cut for some readers only: these readers are intercepted, and see

        stream + cut @ (ablated - live)
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
    def of(cls, model: HookedTransformer, masks: Masks) -> "Cuts":
        """Those of masks; by their values, except where they need gradients."""
        graph = masks.graph
        assert isinstance(graph, ComponentGraph)
        coupled = anatomy_of(model).heads_are_coupled
        gates, gated = _node_masks(graph, masks, model.cfg.device)
        kept = _edge_masks(graph, masks, model.cfg.device)
        if coupled:
            kept = kept * _rows_of_open_heads(graph, gates)[:, None]
        support = graph.block.support.to(gates.device)
        acting_readers = torch.ones(graph.n_readers, dtype=torch.bool)
        if not (gates.requires_grad or kept.requires_grad):
            # What does not act on the logits is not computed: its gate is closed, and what it
            # reads is left as it is.
            kept_edges = ((kept > 0) & (gates > 0) & support).cpu().numpy()
            acting = Acting.of(graph, kept_edges, coupled=coupled)
            acting_writers = torch.from_numpy(acting.writers)
            acting_readers = torch.from_numpy(acting.readers)
            gates, gated = gates * acting_writers.to(gates.device), gated | ~acting_writers
        cut = (1 - kept) * support
        # A writer whose gate is closed carries its ablated value to everyone: nothing to cut.
        needed = _may_be_nonzero(cut) & acting_readers[:, None] & _may_be_nonzero(gates)
        intercepted, stored = needed.any(1), needed.any(0)
        # With gate n, what is in the stream is n * live + (1 - n) * ablated, which is away from
        # `ablated` by n * (ablated - live), where `live` is what the store has.
        share = torch.where(_stored_before_gate(graph).to(gates.device), gates, 1)
        return cls(
            gates=gates,
            gated=gated.tolist(),
            cut=(cut * share)[:, stored.to(cut.device)],
            stored=stored.tolist(),
            intercepted=intercepted.tolist(),
        )


def _may_be_nonzero(values: Tensor) -> Bool[Tensor, "..."]:
    """On the CPU; true throughout for values that need gradients."""
    if values.requires_grad:
        return torch.ones(values.shape, dtype=torch.bool)
    return (values != 0).cpu()


def _node_masks(
    graph: ComponentGraph, masks: Masks, device: torch.device | str | None
) -> tuple[Float[Tensor, " writers"], Bool[Tensor, " writers"]]:
    """Masks of all writers, and which of these are not known to be 1."""
    gates = [
        masks.nodes.get(name, torch.ones(site.width)).to(device)
        for name, site in graph.valued_sites.items()
    ]
    # By site: those without a mask are 1 also where others need gradients.
    return torch.cat(gates), torch.cat([_may_be_nonzero(1 - gate) for gate in gates])


def _edge_masks(
    graph: ComponentGraph, masks: Masks, device: torch.device | str | None
) -> Float[Tensor, "readers writers"]:
    """Masks of all edges; the mask of the logits acts on the edges into them."""
    kept = masks.edges.get(EDGES)
    shape = (graph.n_readers, graph.n_writers)
    kept = torch.ones(shape, device=device) if kept is None else kept.to(device)
    logits = masks.nodes.get("logits")
    return kept if logits is None else torch.cat([kept[:-1], kept[-1:] * logits.to(device)])


def _rows_of_open_heads(
    graph: ComponentGraph, gates: Float[Tensor, " writers"]
) -> Float[Tensor, " readers"]:
    """0 for q, k and v of pruned heads, else 1.

    Where heads act on each other directly, a pruned head would still do so with what it reads.
    """
    rows = torch.ones(graph.n_readers, device=gates.device)
    is_open = (gates.detach() > 0).to(rows.dtype)
    for sublayer in graph.sublayers:
        if sublayer.kind == "heads":
            heads = is_open[sublayer.writers]
            rows[sublayer.readers] = repeat(heads, "head -> (qkv head)", qkv=3)
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
