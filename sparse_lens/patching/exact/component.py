"""Effects of single cuts on a component graph."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import LETTERS, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.component.interception import reader_flags
from sparse_lens.patching.component.masked_pass import component_attachment
from sparse_lens.patching.component.reading import Reader, attention_reader
from sparse_lens.patching.component.writer_changes import WriterChanges
from sparse_lens.patching.exact.passes import Indices, Passes
from sparse_lens.patching.hooks import Attachment, Edit, Hooks
from sparse_lens.patching.run import run_live


def component_edges(passes: Passes) -> Float[Tensor, "readers writers"]:
    """Effects of cutting each edge, which adds ablated - live writer to what its reader reads."""
    graph = passes.bound.graph
    assert isinstance(graph, ComponentGraph)
    cuts = _StreamCuts(passes)
    effects = torch.zeros(graph.n_readers, graph.n_writers, device=passes.bound.device)

    def measure(rows: slice, attach: Callable[[Indices, Indices], Attachment]) -> None:
        readers, writers = graph.block.support[rows].nonzero(as_tuple=True)
        for reader, writer in passes.chunks(readers, writers):  # one of each per cut
            effects[rows.start + reader, writer] = passes.effects(
                len(reader), attach(reader, writer)
            )

    for sublayer in graph.sublayers:
        layer = sublayer.layer
        if sublayer.kind == "mlp":
            measure(sublayer.readers, cuts.into_mlp(layer))
            continue
        for letter in LETTERS:
            measure(sublayer.readers_of(letter), cuts.into_heads(layer, letter))
    measure(graph.logits_reader, cuts.into_logits())
    return effects


class _StreamCuts:
    """Attachments that cut one edge of a component graph in each copy of the batch."""

    def __init__(self, passes: Passes) -> None:
        model, graph = passes.model, passes.bound.graph
        assert isinstance(graph, ComponentGraph)
        self._model, self._graph, self._anatomy = model, graph, anatomy_of(model)
        self._batch = len(passes.prompts)
        self._changes = WriterChanges(model, graph, passes.bound.writer_values(passes.prompts))
        self._streams: dict[int, Tensor] = {}
        self._readers: dict[int, Reader] = {}
        edits, captures = Hooks(), Hooks()
        self._changes.add(edits, captures)
        for layer in range(graph.n_layers):
            reader = attention_reader(model, layer)
            captures.add(self._anatomy.attn_stream(layer), self._capture_stream(layer))
            captures.update_with(reader.captures)
            self._readers[layer] = reader
        run = Attachment(model, edits=edits.merged(), captures=captures.merged())
        run_live(model, passes.prompts, run)

    def into_mlp(self, layer: int) -> Callable[[Indices, Indices], Attachment]:
        """Cut edges into the MLP of a layer, of the writers given."""
        flags = reader_flags(self._model, heads=False, mlps=True)
        return self._into_stream(self._anatomy.mlp_in(layer), flags)

    def into_logits(self) -> Callable[[Indices, Indices], Attachment]:
        """Cut edges into the final residual stream, of the writers given."""
        return self._into_stream(self._anatomy.final_stream, {})

    def _into_stream(
        self, hook_name: str, flags: Mapping[str, bool]
    ) -> Callable[[Indices, Indices], Attachment]:
        def attach(readers: Indices, writers: Indices) -> Attachment:
            def edit(stream: Float[Tensor, "rows pos d_model"]) -> Tensor:
                return stream + self._changes[writers.to(stream.device)].view(stream.shape)

            return Attachment(self._model, edits={hook_name: edit}, captures={}, flags=flags)

        return attach

    def into_heads(self, layer: int, letter: str) -> Callable[[Indices, Indices], Attachment]:
        """Cut edges into queries, keys or values of a layer, of the heads and writers given.

        The stream that a head reads cannot be edited for it alone, so its projection of the edited
        stream, norm(stream + change) W + b, replaces its queries, keys or values.
        """
        attn = self._model.blocks[layer].attn
        weight, bias = getattr(attn, f"W_{letter.upper()}"), getattr(attn, f"b_{letter.upper()}")
        hook_name = self._anatomy.projected(layer, letter)
        flags = reader_flags(self._model, heads=letter != "q", mlps=False)

        def attach(heads: Indices, writers: Indices) -> Attachment:
            heads, writers = heads.to(weight.device), writers.to(weight.device)

            def edit(projected: Float[Tensor, "rows pos head d_head"]) -> Tensor:
                streams = self._streams[layer] + self._changes[writers]  # [cuts, tokens, d_model]
                read = self._readers[layer].read_(streams, slice(None))
                # [cuts, tokens, d_head]
                cut = torch.baddbmm(bias[heads, None], read, weight[heads])
                projected = projected.clone(memory_format=torch.contiguous_format)
                copies = projected.unflatten(0, (len(heads), self._batch))
                copy = torch.arange(len(heads), device=heads.device)
                # One head in each copy; indexing puts the copies first: [copy, batch, pos, d_head].
                copies[copy, :, :, heads] = cut.to(projected.dtype).unflatten(1, copies.shape[1:3])
                return projected

            return Attachment(self._model, edits={hook_name: edit}, captures={}, flags=flags)

        return attach

    def _capture_stream(self, layer: int) -> Edit:
        def capture(stream: Float[Tensor, "batch pos d_model"]) -> None:
            self._streams[layer] = stream.flatten(0, 1)  # [tokens, d_model]

        return capture


def component_nodes(passes: Passes) -> Mapping[str, Float[Tensor, " width"]]:
    """By site: effects of ablating each writer, in a pass of its own."""
    model, graph = passes.model, passes.bound.graph
    assert isinstance(graph, ComponentGraph)
    ablated = passes.bound.writer_values(passes.prompts)
    effects = {}
    for name, site in graph.valued_sites.items():
        site_effects = []
        for node in range(site.width):
            gate = torch.ones(site.width, device=passes.bound.device)
            gate[node] = 0
            attachment = component_attachment(model, Masks(graph, {name: gate}, {}), ablated)
            site_effects.append(passes.effects(1, attachment))
        effects[name] = torch.cat(site_effects)
    return effects
