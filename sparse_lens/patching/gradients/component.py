"""First-order effects of cutting the edges of a component graph."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import LETTERS, ComponentGraph
from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.objectives import Objective
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.component.interception import reader_flags
from sparse_lens.patching.component.mixing import flat, token_chunks
from sparse_lens.patching.component.reading import attention_reader
from sparse_lens.patching.component.writer_changes import WriterChanges
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
from sparse_lens.task import Prompts


@torch.no_grad()
def component_edge_effects(
    bound: BoundAblation,
    prompts: Prompts,
    objective: Objective,
    points: GradientPoints,
    *,
    relp: bool,
    copies: int,
) -> Float[Tensor, "readers writers"]:
    """The sum over positions and channels of (ablated - live writer) * gradient at the reader."""
    model, graph = bound.model, bound.graph
    assert isinstance(graph, ComponentGraph)
    passes = repeated(model, prompts, objective, points, copies=copies)
    changes = WriterChanges(model, graph, bound.writer_values(prompts))
    if not points.begin_live:
        run_live(model, prompts, changes.attachment())
    effects = torch.zeros(graph.n_readers, graph.n_writers, device=bound.device)
    for site in points.moved(graph, edges=True):
        columns = slice(0, graph.n_writers) if site is None else graph.node_slices[site]
        moved = slice(0, graph.n_inputs) if site is None else columns
        layer = 0 if site is None else graph.sites[site].layer or 0
        for run in passes:
            inputs = _ReaderInputs(model, graph, layer, relp=relp)
            edits, captures = Hooks(), Hooks()
            if run.moved:
                of_site = changes[moved].sum(0).view(*prompts.clean.shape, -1)
                edits.add(_written_at(anatomy_of(model), graph, moved), run.moving(of_site))
            if not changes.known:
                changes.add(edits, captures)
            inputs.add(edits, captures)
            attachment = Attachment(
                model, edits=edits.merged(), captures=captures.merged(), flags=inputs.flags
            )
            gradients = gradients_at(inputs.live, model, run, objective, attachment)
            streams = inputs.stream_gradients(gradients, run, columns.start)
            for readers, tokens, gradient in streams:
                seen = slice(columns.start, min(columns.stop, graph.n_before(readers.start)))
                change = flat(changes[seen, tokens])
                effects[readers, seen] += flat(gradient.contiguous()) @ change.T
    return effects / len(points.shares)


class _ReaderInputs:
    """Where the gradients at the readers' inputs come from, from a layer on."""

    def __init__(
        self, model: HookedTransformer, graph: ComponentGraph, first_layer: int, *, relp: bool
    ) -> None:
        self._model, self._graph, self._relp = model, graph, relp
        self._layers = range(first_layer, graph.n_layers)
        self._readers = {
            layer: attention_reader(model, layer, detached_scale=relp) for layer in self._layers
        }
        self.live: Captured = {}
        self._streams: Captured = {}
        self.flags = reader_flags(model, heads=True, mlps=not graph.attn_only)

    def add(self, edits: Hooks, captures: Hooks) -> None:
        """Add the hooks."""
        anatomy = anatomy_of(self._model)
        edits.add(anatomy.attn_stream(self._layers.start), start_graph)
        if self._relp:
            add_relp_rules(self._model, edits, captures)
        for layer, reader in self._readers.items():
            at = f"blocks.{layer}"
            captures.add(anatomy.attn_stream(layer), keep(self._streams, at))
            captures.update_with(reader.captures)
            for letter in LETTERS:
                projected = anatomy.projected(layer, letter)
                captures.add(projected, keep(self.live, f"{at}.{letter}"))
            if not self._graph.attn_only:
                captures.add(anatomy.mlp_in(layer), keep(self.live, f"{at}.mlp"))
        captures.add(anatomy.final_stream, keep(self.live, "logits"))

    def stream_gradients(
        self, gradients: Mapping[str, Tensor], copies: Copies, writer: int
    ) -> Iterator[tuple[slice, slice, Float[Tensor, "readers tokens d_model"]]]:
        """Readers and tokens, with the gradients at the stream that each of these readers sees.

        A reader's tokens may come several times, for one copy after the other.

        Args:
            writer: readers before this one are left out.
        """
        graph = self._graph
        for sublayer in graph.sublayers:
            if sublayer.layer not in self._layers or sublayer.n_before <= writer:
                continue
            if sublayer.kind == "heads":
                for tokens, gradient in self._heads(sublayer.layer, gradients, copies):
                    yield sublayer.readers, tokens, gradient
            else:
                gradient = copies.total(gradients[f"blocks.{sublayer.layer}.mlp"])
                yield sublayer.readers, slice(None), gradient.flatten(0, 1)[None]
        yield (
            graph.logits_reader,
            slice(None),
            copies.total(gradients["logits"]).flatten(0, 1)[None],
        )

    def _heads(
        self, layer: int, gradients: Mapping[str, Tensor], copies: Copies
    ) -> Iterator[tuple[slice, Tensor]]:
        """Through the heads' projections and the norm, some tokens at a time."""
        attn: Any = self._model.blocks[layer].attn
        at_heads, weights = [], []
        for letter in LETTERS:
            at = gradients[f"blocks.{layer}.{letter}"]  # [rows, pos, head, d_head]
            at_heads.append(at.flatten(0, 1).transpose(0, 1))
            weights.append(getattr(attn, f"W_{letter.upper()}"))
        at_head, weight = torch.cat(at_heads), torch.cat(weights).mT
        stream = self._streams[f"blocks.{layer}"][0].detach().flatten(0, 1)
        n_tokens = len(stream) // len(copies.shares)
        for start in range(0, len(stream), n_tokens):
            for tokens in token_chunks(stream[:n_tokens], len(at_head)):
                here = slice(start + tokens.start, start + tokens.stop)
                at_reads = torch.bmm(at_head[:, here], weight)
                part = stream[None, here].clone()
                yield tokens, self._readers[layer].pull_back_(part, at_reads, here)


def _written_at(anatomy: Anatomy, graph: ComponentGraph, writers: slice) -> str:
    """Where the writers of one site join the stream."""
    if writers.start < graph.n_inputs:
        return anatomy.first_stream
    (sublayer,) = (sublayer for sublayer in graph.sublayers if sublayer.writers == writers)
    written = anatomy.attn_out if sublayer.kind == "heads" else anatomy.mlp_out
    return written(sublayer.layer)
