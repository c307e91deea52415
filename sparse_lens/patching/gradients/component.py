"""First-order effects of cutting the edges of a component graph."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import LETTERS, ComponentGraph
from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.patching.component.interception import reader_flags
from sparse_lens.patching.component.mixing import flat, token_chunks
from sparse_lens.patching.component.reading import attention_reader
from sparse_lens.patching.component.writer_changes import WriterChanges
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


@torch.no_grad()
def component_edge_effects(attribution: Attribution) -> Float[Tensor, "readers writers"]:
    """The sum over tokens and channels of (ablated - live writer) * dL/d(stream of the reader).

    For the readers and the writers before them this is one matrix product,
    [readers, tokens * d_model] @ [tokens * d_model, writers].
    """
    bound, prompts, points = attribution.bound, attribution.prompts, attribution.points
    model, graph = bound.model, bound.graph
    assert isinstance(graph, ComponentGraph)
    changes = WriterChanges(model, graph, bound.writer_values(prompts))
    if not points.begin_live:
        run_live(model, prompts, changes.attachment())
    effects = torch.zeros(graph.n_readers, graph.n_writers, device=bound.device)
    for site in points.moved(graph, edges=True):
        columns = slice(0, graph.n_writers) if site is None else graph.node_slices[site]
        moved = slice(0, graph.n_inputs) if site is None else columns
        layer = 0 if site is None else graph.sites[site].layer or 0
        for copies in attribution.passes:
            inputs = _ReaderInputs(model, graph, layer, relp=attribution.relp)
            edits, captures = Hooks(), Hooks()
            if copies.moved:
                site_change = changes[moved].sum(0).view(*prompts.clean.shape, -1)  # over writers
                edits.add(_write_hook(anatomy_of(model), graph, moved), copies.moving(site_change))
            if not changes.known:  # this pass is the live run: take the changes from it
                changes.add(edits, captures)
            inputs.add(edits, captures)
            attachment = Attachment(
                model, edits=edits.merged(), captures=captures.merged(), flags=inputs.flags
            )
            gradients = gradients_at(inputs.live, model, copies, attribution.objective, attachment)
            streams = inputs.stream_gradients(gradients, copies, columns.start)
            for readers, tokens, gradient in streams:
                # All readers of a sublayer read from the same writers, those before them.
                writers = slice(columns.start, min(columns.stop, graph.n_before(readers.start)))
                change = flat(changes[writers, tokens])  # [writers, tokens * d_model]
                effects[readers, writers] += flat(gradient.contiguous()) @ change.T
    return effects / len(points.shares)


class _ReaderInputs:
    """Gradients at the residual streams that the readers read, from a layer on.

    For the MLPs and the logits they are taken at copies of the stream. For heads they are taken at
    queries, keys and values, and pulled back through the projections and the norm, for all heads of
    a layer together.
    """

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
        """Add the hooks that capture what gradients are taken at."""
        anatomy = anatomy_of(self._model)
        edits.add(anatomy.attn_stream(self._layers.start), start_graph)
        if self._relp:
            add_relp_rules(self._model, edits, captures)
        for layer, reader in self._readers.items():
            prefix = f"blocks.{layer}"
            captures.add(anatomy.attn_stream(layer), capture_into(self._streams, prefix))
            captures.update_with(reader.captures)
            for letter in LETTERS:
                hook_name = anatomy.projected(layer, letter)
                captures.add(hook_name, capture_into(self.live, f"{prefix}.{letter}"))
            if not self._graph.attn_only:
                captures.add(anatomy.mlp_in(layer), capture_into(self.live, f"{prefix}.mlp"))
        captures.add(anatomy.final_stream, capture_into(self.live, "logits"))

    def stream_gradients(
        self, gradients: Mapping[str, Tensor], copies: Copies, writer: int
    ) -> Iterator[tuple[slice, slice, Float[Tensor, "readers tokens d_model"]]]:
        """Readers and tokens, with the gradients at the stream that each of these readers reads.

        The same tokens can come several times, once per copy of the prompts.

        Args:
            writer: only readers that read from this writer (a column) are needed.
        """
        graph = self._graph
        for sublayer in graph.sublayers:
            if sublayer.layer not in self._layers or sublayer.n_before <= writer:
                continue
            if sublayer.kind == "heads":
                for tokens, gradient in self._head_gradients(sublayer.layer, gradients, copies):
                    yield sublayer.readers, tokens, gradient
            else:
                gradient = copies.total(gradients[f"blocks.{sublayer.layer}.mlp"])
                yield sublayer.readers, slice(None), gradient.flatten(0, 1)[None]
        yield (
            graph.logits_reader,
            slice(None),
            copies.total(gradients["logits"]).flatten(0, 1)[None],
        )

    def _head_gradients(
        self, layer: int, gradients: Mapping[str, Tensor], copies: Copies
    ) -> Iterator[tuple[slice, Float[Tensor, "readers tokens d_model"]]]:
        """Gradients at the streams of a layer's heads, for chunks of tokens.

        With q = norm(x) W + b, dL/dx is dL/dq W^T, pulled back through the norm.
        """
        attn: Any = self._model.blocks[layer].attn
        at_projected, weights = [], []
        for letter in LETTERS:
            gradient = gradients[f"blocks.{layer}.{letter}"]
            at_projected.append(rearrange(gradient, "row pos head d_head -> head (row pos) d_head"))
            weights.append(getattr(attn, f"W_{letter.upper()}"))
        # [readers, rows * pos, d_head] and [readers, d_head, d_model]
        gradient, transposed_weight = torch.cat(at_projected), torch.cat(weights).mT
        stream = self._streams[f"blocks.{layer}"][0].detach().flatten(0, 1)
        n_tokens = len(stream) // len(copies.shares)  # of one copy
        for start in range(0, len(stream), n_tokens):
            for tokens in token_chunks(stream[:n_tokens], len(gradient)):
                copy_tokens = slice(start + tokens.start, start + tokens.stop)
                at_reads = torch.bmm(gradient[:, copy_tokens], transposed_weight)
                chunk = stream[None, copy_tokens].clone()
                yield tokens, self._readers[layer].pull_back_(chunk, at_reads, copy_tokens)


def _write_hook(anatomy: Anatomy, graph: ComponentGraph, writers: slice) -> str:
    """The hook point where the outputs of a site's writers are added to the stream."""
    if writers.start < graph.n_inputs:
        return anatomy.first_stream
    (sublayer,) = (sublayer for sublayer in graph.sublayers if sublayer.writers == writers)
    hook_name = anatomy.attn_out if sublayer.kind == "heads" else anatomy.mlp_out
    return hook_name(sublayer.layer)
