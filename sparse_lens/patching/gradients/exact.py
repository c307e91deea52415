"""What cutting each edge or ablating each node by itself does, without approximation.

Where one thing alone is cut, everything before it is as in the run of the whole model. So a pass
takes many cuts at once: the batch is repeated, and each copy has its own change added where it
arrives.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import EDGES, LETTERS, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.objectives import Objective
from sparse_lens.patching.binding import BoundAblation
from sparse_lens.patching.channel.attachment import channel_flags
from sparse_lens.patching.component.attachment import component_attachment
from sparse_lens.patching.component.interception import reader_flags
from sparse_lens.patching.component.reading import Reader, attention_reader
from sparse_lens.patching.gradients.backward import run_live
from sparse_lens.patching.gradients.channel_changes import ChannelChanges
from sparse_lens.patching.gradients.component import WriterChanges
from sparse_lens.patching.hooks import Attachment, Edit, Hooks
from sparse_lens.patching.run import answer_logits, full_logits
from sparse_lens.patching.suspension import suspended
from sparse_lens.task import Prompts

Indices = Int[Tensor, " cuts"]


@torch.no_grad()
def exact_edge_effects(
    bound: BoundAblation, prompts: Prompts, objective: Objective, *, rows: int = 64
) -> Mapping[str, Float[Tensor, "dst src"]]:
    """Change of the objective, summed over prompts, when each edge alone is cut; by block.

    Args:
        rows: of a pass; each is one prompt with one edge cut.
    """
    passes = _Passes(bound, prompts, objective, rows)
    if isinstance(bound.graph, ComponentGraph):
        return {EDGES: _component_edges(passes)}
    return _channel_edges(passes)


@torch.no_grad()
def exact_node_effects(
    bound: BoundAblation, prompts: Prompts, objective: Objective, *, rows: int = 64
) -> Mapping[str, Float[Tensor, " width"]]:
    """Change of the objective, summed over prompts, when each node alone is ablated; by site.

    On a component graph there is none for the logits, and it is one pass a node: a node there may
    act on others otherwise than through the stream.

    Args:
        rows: of a pass on a channel graph; each is one prompt with one channel ablated.
    """
    passes = _Passes(bound, prompts, objective, rows)
    if isinstance(bound.graph, ComponentGraph):
        return _component_nodes(passes)
    return _channel_nodes(passes)


class _Passes:
    """Forward passes of several copies of a batch, compared with the whole model."""

    def __init__(
        self, bound: BoundAblation, prompts: Prompts, objective: Objective, rows: int
    ) -> None:
        self.bound, self.model = bound, bound.model
        self.prompts, self._objective = prompts, objective
        self._logits = full_logits(self.model, prompts)
        self._loss = self._of(self._logits, 1)
        self._cuts = max(1, rows // len(prompts))

    def chunks(self, *indices: Int[Tensor, " n"]) -> Iterator[tuple[Indices, ...]]:
        """Some of the cuts after the other."""
        if len(indices[0]):  # a block may have no edge
            yield from zip(*(index.split(self._cuts) for index in indices), strict=True)

    def effects(self, n_cuts: int, attachment: Attachment) -> Float[Tensor, " cuts"]:
        """Changes of the objective, summed over prompts; copy after copy has its own cut."""
        with suspended(self.model), attachment.attached():
            logits = answer_logits(self.model, self._copies(n_cuts))
        change = self._of(logits, n_cuts).view(n_cuts, -1) - self._loss
        return change.sum(1, dtype=torch.float32)

    def _of(self, logits: Float[Tensor, "rows vocab"], copies: int) -> Float[Tensor, " rows"]:
        return self._objective(logits, self._copies(copies), self._logits.repeat(copies, 1))

    def _copies(self, n: int) -> Prompts:
        return self.prompts[torch.arange(len(self.prompts), device=self._device).repeat(n)]

    @property
    def _device(self) -> torch.device:
        return self.prompts.clean.device


# Component graph.


def _component_edges(passes: _Passes) -> Float[Tensor, "readers writers"]:
    model, graph = passes.model, passes.bound.graph
    assert isinstance(graph, ComponentGraph)
    cuts = _StreamCuts(passes)
    effects = torch.zeros(graph.n_readers, graph.n_writers, device=model.cfg.device)

    def measure(rows: slice, attach: Callable[[Indices, Indices], Attachment]) -> None:
        readers, writers = graph.edge_support[EDGES][rows].nonzero(as_tuple=True)
        for some_readers, some_writers in passes.chunks(readers, writers):
            found = passes.effects(len(some_readers), attach(some_readers, some_writers))
            effects[rows.start + some_readers, some_writers] = found

    for layer in range(graph.n_layers):
        for letter in LETTERS:
            measure(graph.head_readers(layer, letter), cuts.into_heads(layer, letter))
        if not graph.attn_only:
            measure(graph.mlp_reader(layer), cuts.into_stream(f"blocks.{layer}.hook_mlp_in"))
    final = f"blocks.{graph.n_layers - 1}.hook_resid_post"
    measure(graph.logits_reader, cuts.into_stream(final))
    return effects


class _StreamCuts:
    """Attachments that cut one edge of a component graph in each copy of the batch."""

    def __init__(self, passes: _Passes) -> None:
        model, graph = passes.model, passes.bound.graph
        assert isinstance(graph, ComponentGraph)
        self._model, self._graph = model, graph
        self._batch = len(passes.prompts)
        self._changes = WriterChanges(model, graph, passes.bound.writer_values(passes.prompts))
        self._streams: dict[int, Tensor] = {}
        self._readers: dict[int, Reader] = {}
        edits, captures = Hooks(), Hooks()
        self._changes.add(edits, captures)
        for layer in range(graph.n_layers):
            reader = attention_reader(model, layer)
            captures.add(f"blocks.{layer}.hook_resid_pre", self._keep_stream(layer))
            captures.update_with(reader.captures)
            self._readers[layer] = reader
        run = Attachment(model, edits=edits.merged(), captures=captures.merged())
        run_live(model, passes.prompts, run)

    def into_stream(self, hook_name: str) -> Callable[[Indices, Indices], Attachment]:
        """Edges into a reader that is alone with its stream."""
        is_mlp = hook_name.endswith("hook_mlp_in")
        flags = reader_flags(self._model, heads=False, mlps=is_mlp)

        def attach(readers: Indices, writers: Indices) -> Attachment:
            def edit(stream: Float[Tensor, "rows pos d_model"]) -> Tensor:
                return stream + self._changes[writers.to(stream.device)].view(stream.shape)

            return Attachment(self._model, edits={hook_name: edit}, captures={}, flags=flags)

        return attach

    def into_heads(self, layer: int, letter: str) -> Callable[[Indices, Indices], Attachment]:
        """Edges into the queries, keys or values of a layer."""
        attn = self._model.blocks[layer].attn
        weight, bias = getattr(attn, f"W_{letter.upper()}"), getattr(attn, f"b_{letter.upper()}")
        pre = "_pre" if getattr(self._model, "sparse_cfg", None) is not None else ""
        hook_name = f"blocks.{layer}.attn.hook_{letter}{pre}"
        flags = reader_flags(self._model, heads=letter != "q", mlps=False)

        def attach(heads: Indices, writers: Indices) -> Attachment:
            heads, writers = heads.to(weight.device), writers.to(weight.device)

            def edit(found: Float[Tensor, "rows pos head d_head"]) -> Tensor:
                streams = self._streams[layer] + self._changes[writers]
                read = self._readers[layer].read_(streams, slice(None))
                seen = torch.baddbmm(bias[heads, None], read, weight[heads]).to(found.dtype)
                found = found.clone(memory_format=torch.contiguous_format)
                copies = found.unflatten(0, (len(heads), self._batch))
                copy = torch.arange(len(heads), device=heads.device)
                copies[copy, :, :, heads] = seen.unflatten(1, copies.shape[1:3])
                return found

            return Attachment(self._model, edits={hook_name: edit}, captures={}, flags=flags)

        return attach

    def _keep_stream(self, layer: int) -> Edit:
        def keep(stream: Float[Tensor, "batch pos d_model"]) -> None:
            self._streams[layer] = stream.flatten(0, 1)

        return keep


def _component_nodes(passes: _Passes) -> Mapping[str, Float[Tensor, " width"]]:
    model, graph = passes.model, passes.bound.graph
    assert isinstance(graph, ComponentGraph)
    ablated = passes.bound.writer_values(passes.prompts)
    effects = {}
    for name, site in graph.sites.items():
        if name == "logits":
            continue
        found = []
        for node in range(site.width):
            gate = torch.ones(site.width, device=model.cfg.device)
            gate[node] = 0
            attachment = component_attachment(model, Masks(graph, {name: gate}, {}), ablated)
            found.append(passes.effects(1, attachment))
        effects[name] = torch.cat(found)
    return effects


# Channel graph.


def _channel_nodes(passes: _Passes) -> Mapping[str, Float[Tensor, " width"]]:
    changes = _changes_of_channels(passes, edges=False)
    graph = passes.bound.graph
    effects = {}
    for name, site in graph.sites.items():
        change = changes.of_nodes(name)
        found = []
        for (channels,) in passes.chunks(torch.arange(site.width)):
            added = _Added(channels, _columns(change, channels), per_head=_is_split(name))
            found.append(passes.effects(len(channels), _at(passes, site.hook_name, added)))
        effects[name] = torch.cat(found)
    return effects


def _channel_edges(passes: _Passes) -> Mapping[str, Float[Tensor, "dst src"]]:
    changes = _changes_of_channels(passes, edges=True)
    graph = passes.bound.graph
    assert isinstance(graph, ChannelGraph)
    weights = graph.edge_weights(passes.model)
    effects = {}
    for block, support in graph.edge_support.items():
        name = block.split("->")[1]
        hook_name = graph.sites[name].input_hook_name or ""
        weight, change = weights[block], changes.of_edges(block)
        effects[block] = torch.zeros(support.shape, device=weight.device)
        for dst, src in passes.chunks(*support.nonzero(as_tuple=True)):
            sent = _columns(change, src) * weight[dst, src][:, None, None]
            added = _Added(dst, sent, per_head=_is_split(name))
            effects[block][dst, src] = passes.effects(len(dst), _at(passes, hook_name, added))
    return effects


def _changes_of_channels(passes: _Passes, *, edges: bool) -> ChannelChanges:
    changes = ChannelChanges(passes.bound, passes.prompts, edges=edges)
    run_live(passes.model, passes.prompts, changes.attachment())
    return changes


def _columns(change: Tensor, channels: Indices) -> Float[Tensor, "cuts batch pos"]:
    return change[:, :, channels.to(change.device)].permute(2, 0, 1)


def _is_split(site: str) -> bool:
    """Whether the channels of a site stand in heads."""
    return site.endswith((".q", ".k", ".v"))


def _at(passes: _Passes, hook_name: str, edit: Edit) -> Attachment:
    flags = channel_flags([hook_name])
    return Attachment(passes.model, edits={hook_name: edit}, captures={}, flags=flags)


class _Added:
    """In each copy of the batch one channel has something added."""

    def __init__(
        self, channels: Indices, added: Float[Tensor, "cuts batch pos"], *, per_head: bool
    ) -> None:
        self._channels, self._added, self._per_head = channels.to(added.device), added, per_head

    def __call__(self, found: Tensor) -> Tensor:
        changed = found.clone(memory_format=torch.contiguous_format)
        values = changed.flatten(-2) if self._per_head else changed  # channels on the last axis
        copies = values.unflatten(0, self._added.shape[:2])
        copy = torch.arange(len(copies), device=found.device)
        added = self._added.to(found.dtype)
        copies[copy, ..., self._channels] += added[..., None] if copies.ndim == 5 else added
        return changed
