"""First-order effects of cutting edges and nodes: gradients against (ablated - live)."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import EDGES, LETTERS, ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.patching.alignment import aligned, differences, like
from sparse_lens.patching.binding import BoundAblation
from sparse_lens.patching.channel import channel_flags, site_channels
from sparse_lens.patching.hooks import Attachment, Edit, Hooks, frozen
from sparse_lens.patching.interception import reader_flags
from sparse_lens.patching.mixing import flat, token_chunks
from sparse_lens.patching.reading import attention_reader
from sparse_lens.patching.run import answer_logits, full_logits
from sparse_lens.patching.suspension import suspended
from sparse_lens.patching.writers import FIRST_STREAM, WriterOutputs
from sparse_lens.task import Prompts

Captured = dict[str, list[Tensor]]
"""What passed hook points in one forward pass, by name. A norm before attention has three values:
TransformerLens calls it for queries, keys and values alike."""


def edge_effects(
    bound: BoundAblation, prompts: Prompts, objective: Objective
) -> Float[Tensor, "readers writers"]:
    """Estimated change of the objective, summed over prompts, when each component edge is cut.

    Edge attribution patching (Syed et al. 2310.10348): the sum over positions and channels of
    (ablated - live output of the writer) * gradient at the input of the reader. One run for the
    ablated values, one forward and backward pass for all edges.
    """
    model, graph = bound.model, bound.graph
    assert isinstance(graph, ComponentGraph)
    ablated = bound.writer_values(prompts)
    readers = _ReaderInputs(model, graph)
    stored: list[Tensor] = []

    @torch.no_grad()
    def receive(live: Tensor, where: slice) -> None:
        batch, pos, width = live.shape[1:]
        if not stored:
            stored.append(live.new_empty(graph.n_writers, batch * pos, width))
        place = stored[0][where].view(live.shape)
        part = None
        if ablated is not None:
            part = aligned(ablated[where], "writers", leading=1, batch=batch, pos=pos)
        differences(part, live, out=place)

    outputs = WriterOutputs(model, graph)
    outputs.hand_over(receive, readers.edits, readers.captures)
    attachment = Attachment(
        model,
        edits=readers.edits.merged(),
        captures=readers.captures.merged(),
        flags=readers.flags,
    )
    gradients = _backward(model, prompts, objective, attachment, readers.live)
    effects = torch.zeros(graph.n_readers, graph.n_writers, device=stored[0].device)
    for rows, tokens, gradient in readers.stream_gradients(gradients):
        seen = int(graph.edge_support[EDGES][rows.start].count_nonzero())
        effects[rows, :seen] += flat(gradient.contiguous()) @ flat(stored[0][:seen, tokens]).T
    return effects


def node_effects(
    bound: BoundAblation, prompts: Prompts, objective: Objective
) -> Mapping[str, Float[Tensor, " width"]]:
    """Estimated change of the objective, summed over prompts, when each channel is ablated."""
    model, graph = bound.model, bound.graph
    assert isinstance(graph, ChannelGraph)
    ablated = bound.values(prompts)
    live: Captured = {}
    edits, captures = Hooks(), Hooks()
    edits.add(FIRST_STREAM, _start_graph)
    for name, site in graph.sites.items():
        captures.add(site.hook_name, _keep(live, name))
    attachment = Attachment(
        model, edits=edits.merged(), captures=captures.merged(), flags=channel_flags(captures)
    )
    gradients = _backward(model, prompts, objective, attachment, live)
    effects = {}
    for name, site in graph.sites.items():
        value = site_channels(live[name][0].detach(), site)
        gradient = site_channels(gradients[name], site)
        if value.ndim == 4:  # a copy for each head
            value, gradient = value[:, :, 0], gradient.sum(2)
        change = -value
        if name in ablated:
            batch, pos = value.shape[:2]
            part = aligned(ablated[name], repr(name), leading=0, batch=batch, pos=pos)
            change = like(part, value) - value
        effects[name] = (change * gradient).flatten(0, 1).sum(0, dtype=torch.float32)
    return effects


def _backward(
    model: HookedTransformer,
    prompts: Prompts,
    objective: Objective,
    attachment: Attachment,
    live: Captured,
) -> dict[str, Tensor]:
    """Gradients of the summed objective with respect to what the attachment captured in `live`."""
    with suspended(model), frozen(model), torch.enable_grad():
        full = full_logits(model, prompts) if objective.needs_full_logits else None
        with attachment.attached():
            loss = objective(answer_logits(model, prompts), prompts, full).sum()
        found = [value for values in live.values() for value in values]
        gradients = iter(torch.autograd.grad(loss, found, materialize_grads=True))
    return {name: _total([next(gradients) for _ in values]) for name, values in live.items()}


def _total(gradients: list[Tensor]) -> Tensor:
    return gradients[0] if len(gradients) == 1 else torch.stack(gradients).sum(0)


class _ReaderInputs:
    """Where the gradients at the readers' inputs come from."""

    def __init__(self, model: HookedTransformer, graph: ComponentGraph) -> None:
        self._model, self._graph = model, graph
        self._readers = [attention_reader(model, layer) for layer in range(graph.n_layers)]
        self.live: Captured = {}
        self._streams: Captured = {}
        self.edits, self.captures = Hooks(), Hooks()
        self.edits.add(FIRST_STREAM, _start_graph)
        self.flags = reader_flags(model, heads=True, mlps=not graph.attn_only)
        pre = "_pre" if getattr(model, "sparse_cfg", None) is not None else ""
        for layer, reader in enumerate(self._readers):
            at = f"blocks.{layer}"
            self.captures.add(f"{at}.hook_resid_pre", _keep(self._streams, at))
            self.captures.update_with(reader.captures)
            for letter in LETTERS:
                keep = _keep(self.live, f"{at}.{letter}")
                self.captures.add(f"{at}.attn.hook_{letter}{pre}", keep)
            if not graph.attn_only:
                self.captures.add(f"{at}.hook_mlp_in", _keep(self.live, f"{at}.mlp"))
        final = f"blocks.{graph.n_layers - 1}.hook_resid_post"
        self.captures.add(final, _keep(self.live, "logits"))

    def stream_gradients(
        self, gradients: Mapping[str, Tensor]
    ) -> Iterator[tuple[slice, slice, Float[Tensor, "readers tokens d_model"]]]:
        """Readers and tokens, with the gradients at the stream that each of these readers sees."""
        graph = self._graph
        for layer in range(graph.n_layers):
            at = f"blocks.{layer}"
            for tokens, gradient in self._heads(layer, gradients):
                yield graph.head_readers(layer), tokens, gradient
            if not graph.attn_only:
                at_mlp = gradients[f"{at}.mlp"].flatten(0, 1)
                yield graph.mlp_reader(layer), slice(None), at_mlp[None]
        yield graph.logits_reader, slice(None), gradients["logits"].flatten(0, 1)[None]

    @torch.no_grad()
    def _heads(self, layer: int, gradients: Mapping[str, Tensor]) -> Iterator[tuple[slice, Tensor]]:
        """Through the heads' projections and the norm, some tokens at a time."""
        attn: Any = self._model.blocks[layer].attn
        at_heads, weights = [], []
        for letter in LETTERS:
            at = gradients[f"blocks.{layer}.{letter}"]  # [batch, pos, head, d_head]
            at_heads.append(at.flatten(0, 1).transpose(0, 1))
            weights.append(getattr(attn, f"W_{letter.upper()}"))
        at_head, weight = torch.cat(at_heads), torch.cat(weights).mT
        stream = self._streams[f"blocks.{layer}"][0].detach().flatten(0, 1)[None]
        for tokens in token_chunks(stream[0], len(at_head)):
            at_reads = torch.bmm(at_head[:, tokens], weight)
            part = stream[:, tokens].clone()
            yield tokens, self._readers[layer].pull_back_(part, at_reads, tokens)


def _start_graph(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
    """Parameters are frozen: gradients start at the first stream."""
    return stream.detach().requires_grad_()


def _keep(values: Captured, name: str) -> Edit:
    def keep(value: Tensor) -> None:
        values.setdefault(name, []).append(value)

    return keep
