"""What all circuits of a model have in common when they run on the same prompts."""

from bisect import bisect_right
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.alignment import aligned, like
from sparse_lens.patching.binding import BoundAblation, BoundInterchange
from sparse_lens.patching.variants.bare import bare
from sparse_lens.patching.variants.full_run import causal_mask, embed, writer_outputs
from sparse_lens.patching.variants.layer_parts import LayerParts
from sparse_lens.patching.variants.plain import plain_unembedding
from sparse_lens.patching.variants.spans import span
from sparse_lens.task import Prompts


class Frame:
    """A model in parts, its embedding of the prompts, and what ablated writers carry there.

    Args:
        only_where_differing: leave out the positions before the first one that differs between the
            prompts and those that ablated writers saw. Heads attend to them all the same.
    """

    def __init__(
        self, bound: BoundAblation, prompts: Prompts, *, only_where_differing: bool = False
    ) -> None:
        model, graph = bound.model, bound.graph
        assert isinstance(graph, ComponentGraph)
        tokens = prompts.clean.to(model.cfg.device)
        self.graph = graph
        self.layers = [LayerParts(model, layer) for layer in range(graph.n_layers)]
        self._unembed = plain_unembedding(model)
        self._model: Any = None if self._unembed else bare(model)
        self._rows = torch.arange(len(tokens), device=tokens.device)
        self._answers = prompts.answer_positions.to(tokens.device)
        self._answer_tokens = tokens[self._rows, self._answers]
        self.vocab = int(model.cfg.d_vocab_out)
        """logits"""
        self.mlp_width = (3 if model.cfg.gated_mlp else 2) * int(model.cfg.d_mlp or 0)
        """weights of an MLP for each channel of the stream"""
        embedded = embed(model, graph, tokens)
        self.inputs, self._mask = embedded.inputs, embedded.mask
        self._positions = embedded.positions
        self.shape = tuple(self.inputs.shape[1:])  # batch, pos, d_model
        self._ablated: Tensor | None = None
        ablated = self._values_of(bound, prompts)
        if ablated is not None:
            batch, pos = self.shape[:2]
            part = aligned(ablated, "writers", leading=1, batch=batch, pos=pos)
            self._ablated = like(part, self.inputs).expand(-1, *self.shape)
        self._backgrounds = self._all_backgrounds()
        self._n_before = 0
        self._before: list[Float[Tensor, "kv heads batch pos d_head"]] = []
        self._causal = causal_mask(self.inputs)
        if only_where_differing and isinstance(bound, BoundInterchange):
            self._leave_out(self._n_equal())
        self._causal = self._causal[self._n_before :]
        self._causal_at_answer = self._causal[self._answers, None]
        self._backgrounds_at_answer = [self.at_answer(stream) for stream in self._backgrounds]

    def ablated(self, writers: list[int] | slice, *, everywhere: bool = True) -> Tensor | float:
        """What some writers carry when ablated, [writers, batch, pos, d_model] (or no pos)."""
        if self._ablated is None:
            return 0.0
        chosen = self._ablated[writers]
        return chosen if everywhere else self.at_answer(chosen)

    def background(self, row: int, *, everywhere: bool) -> Float[Tensor, "batch *pos d_model"]:
        """The stream that a reader sees when all its edges are cut."""
        streams = self._backgrounds if everywhere else self._backgrounds_at_answer
        stops = [sublayer.readers.stop for sublayer in self.graph.sublayers]
        return streams[bisect_right(stops, row)]

    def at_answer(self, values: Float[Tensor, "*any batch pos d"]) -> Float[Tensor, "*any batch d"]:
        """Of each prompt the values at the answer position."""
        return values[..., self._rows, self._answers, :]

    def spread(
        self, at_answer: Float[Tensor, "*any batch d"], out: Float[Tensor, "*any batch pos d"]
    ) -> None:
        """Write values at the answer positions."""
        out[..., self._rows, self._answers, :] = at_answer

    def positions(self, variants: int, *, everywhere: bool) -> Tensor | None:
        """Position embeddings that sublayers read beside the stream, `[variants * batch, ...]`."""
        if self._positions is None:
            return None
        found = self._positions if everywhere else self.at_answer(self._positions)[:, None]
        return found.expand(variants, *found.shape).flatten(0, 1)

    def attend(
        self,
        layer: int,
        heads: list[int],
        queries: Float[Tensor, "heads variants batch *query d_head"],
        keys: Float[Tensor, "heads variants batch pos d_head"],
        values: Float[Tensor, "heads variants batch pos d_head"],
        *,
        everywhere: bool,
    ) -> Float[Tensor, "heads variants batch *query d_head"]:
        """What some heads read out at all positions, or at the answer's alone."""
        parts = self.layers[layer]
        if self._n_before:
            chosen = span(heads)
            keys, values = (
                torch.cat([before[chosen, None].expand(-1, found.shape[1], -1, -1, -1), found], 3)
                for before, found in zip(self._before[layer], (keys, values), strict=True)
            )
        if parts.is_plain and self._mask is None:
            if everywhere:
                return parts.attend_plainly(queries, keys, values, self._causal)
            queries = queries[..., None, :]
            return parts.attend_plainly(queries, keys, values, self._causal_at_answer)[..., 0, :]
        full = queries.new_zeros(*values.shape[:-1], queries.shape[-1])
        own = full[..., self._n_before :, :]
        if everywhere:
            own.copy_(queries)
        else:
            self.spread(queries, own)
        variants = values.shape[1]
        full, keys, values = (
            one.permute(1, 2, 3, 0, 4).flatten(0, 1)  # [variants * batch, pos, heads, d_head]
            for one in (full, keys, values)
        )
        z = parts.attend(heads, full, keys, values, self.attention_mask(variants))
        z = z.unflatten(0, (variants, -1)).permute(3, 0, 1, 2, 4)[..., self._n_before :, :]
        return z if everywhere else self.at_answer(z)

    def attention_mask(self, variants: int) -> Tensor | None:
        """False on padding, where the model needs to be told."""
        return None if self._mask is None else self._mask.repeat(variants, 1)

    def logits(
        self, stream: Float[Tensor, "variants batch d_model"]
    ) -> Float[Tensor, "variants batch vocab"]:
        """Logits at the answer position, given the last stream there."""
        if self._unembed is not None:
            return self._unembed(stream)
        logits = self._model(
            stream.flatten(0, 1)[:, None],
            start_at_layer=self.graph.n_layers,
            tokens=self._answer_tokens.repeat(len(stream))[:, None],
            shortformer_pos_embed=self.positions(len(stream), everywhere=False),
        )
        return logits.view(*stream.shape[:2], -1)

    def _all_backgrounds(self) -> list[Float[Tensor, "batch pos d_model"]]:
        """By sublayer, and of the final stream."""
        graph, backgrounds = self.graph, []
        stream = self.inputs.new_zeros(self.shape) + self._sum(slice(0, graph.n_inputs))
        for sublayer in graph.sublayers:
            in_parallel = graph.parallel and sublayer.kind == "mlp"
            backgrounds.append(backgrounds[-1] if in_parallel else stream)
            stream = stream + self._sum(sublayer.writers)
            if sublayer.kind == "heads":
                stream = stream + self.layers[sublayer.layer].constant
        return [*backgrounds, stream]

    def _values_of(self, bound: BoundAblation, prompts: Prompts) -> Tensor | None:
        """What ablated writers carry; see `BoundAblation.writer_values`."""
        if not isinstance(bound, BoundInterchange):
            return bound.writer_values(prompts)
        embedded = embed(bound.model, self.graph, bound.tokens_of(prompts))
        return writer_outputs(self.graph, self.layers, embedded)

    def _sum(self, writers: slice) -> Tensor | float:
        return 0.0 if self._ablated is None else self._ablated[writers].sum(0)

    def _n_equal(self) -> int:
        """How many positions come first where the model is given the same as when ablated.

        A causal model does the same there, so that all of its circuits do.
        """
        assert self._ablated is not None
        if not all(parts.is_causal for parts in self.layers):
            return 0
        differs = (self.inputs != self._ablated[: self.graph.n_inputs]).any(-1).any(0).any(0)
        differs = differs.nonzero().flatten()
        first = int(differs[0]) if len(differs) else self.shape[1]
        return min(first, int(self._answers.min()))

    def _leave_out(self, n: int) -> None:
        """The first n positions, but for the keys and values there."""
        if n == 0:
            return
        batch, pos, width = self.shape
        readers = tuple(range(3 * self.graph.n_heads))
        for layer, parts in enumerate(self.layers):
            row = self.graph.heads(layer).readers.start
            stream = self.background(row, everywhere=True)[:, :n].flatten(0, 1)
            positions = None if self._positions is None else self._positions[:, :n]
            read = parts.read_(stream[None].clone(), positions).expand(len(readers), -1, -1)
            found = parts.project(readers, read)
            self._before.append(found.view(3, -1, batch, n, found.shape[-1])[1:])
        self._n_before, self.shape = n, (batch, pos - n, width)
        self._answers = self._answers - n
        self.inputs = self.inputs[:, :, n:]
        self._backgrounds = [stream[:, n:] for stream in self._backgrounds]
        if self._ablated is not None:
            self._ablated = self._ablated[:, :, n:]
        if self._positions is not None:
            self._positions = self._positions[:, n:]
