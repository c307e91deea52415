"""What all circuits of a model have in common when they run on the same prompts."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.activations import writer_activations
from sparse_lens.patching.alignment import aligned, like
from sparse_lens.patching.binding import BoundAblation
from sparse_lens.patching.suspension import suspended
from sparse_lens.patching.variants.bare import bare
from sparse_lens.patching.variants.layer_parts import LayerParts
from sparse_lens.task import Prompts


class Frame:
    """A model in parts, its embedding of the prompts, and what ablated writers carry there."""

    def __init__(self, bound: BoundAblation, prompts: Prompts) -> None:
        model, graph = bound.model, bound.graph
        assert isinstance(graph, ComponentGraph)
        tokens = prompts.clean.to(model.cfg.device)
        self.graph = graph
        self.layers = [LayerParts(model, layer) for layer in range(graph.n_layers)]
        self._model: Any = bare(model)
        self._rows = torch.arange(len(tokens), device=tokens.device)
        self._answers = prompts.answer_positions.to(tokens.device)
        self._answer_tokens = tokens[self._rows, self._answers]
        with suspended(model):
            _, _, self._positions, self._mask = model.input_to_embed(tokens)
        self.inputs = writer_activations(model, graph, tokens)[: graph.n_inputs].clone()
        self.shape = tuple(self.inputs.shape[1:])  # batch, pos, d_model
        self._ablated: Tensor | None = None
        ablated = bound.writer_values(prompts)
        if ablated is not None:
            batch, pos = self.shape[:2]
            part = aligned(ablated, "writers", leading=1, batch=batch, pos=pos)
            self._ablated = like(part, self.inputs).expand(-1, *self.shape)
        self._backgrounds = self._all_backgrounds()

    def ablated(self, writers: list[int] | slice, *, everywhere: bool = True) -> Tensor | float:
        """What some writers carry when ablated, [writers, batch, pos, d_model] (or no pos)."""
        if self._ablated is None:
            return 0.0
        chosen = self._ablated[writers]
        return chosen if everywhere else self.at_answer(chosen)

    def background(self, row: int, *, everywhere: bool) -> Float[Tensor, "batch *pos d_model"]:
        """The stream that a reader sees when all its edges are cut."""
        layer, place = divmod(row, 3 * self.graph.n_heads + (not self.graph.attn_only))
        is_mlp = place == 3 * self.graph.n_heads
        stream = self._backgrounds[2 * layer + is_mlp]
        return stream if everywhere else self.at_answer(stream)

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
        found = self._positions.expand(*self.shape[:2], -1)
        found = found if everywhere else self.at_answer(found)[:, None]
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
        if not everywhere:
            full = queries.new_zeros(values.shape[:-1] + queries.shape[-1:])
            self.spread(queries, full)
            queries = full
        variants = values.shape[1]
        parts = [
            one.permute(1, 2, 3, 0, 4).flatten(0, 1)  # [variants * batch, pos, heads, d_head]
            for one in (queries, keys, values)
        ]
        z = self.layers[layer].attend(heads, *parts, self.attention_mask(variants))
        z = z.view(variants, *self.shape[:2], len(heads), -1).permute(3, 0, 1, 2, 4)
        return z if everywhere else self.at_answer(z)

    def attention_mask(self, variants: int) -> Tensor | None:
        """False on padding, where the model needs to be told."""
        return None if self._mask is None else self._mask.repeat(variants, 1)

    def logits(
        self, stream: Float[Tensor, "variants batch d_model"]
    ) -> Float[Tensor, "variants batch vocab"]:
        """Logits at the answer position, given the last stream there."""
        logits = self._model(
            stream.flatten(0, 1)[:, None],
            start_at_layer=self.graph.n_layers,
            tokens=self._answer_tokens.repeat(len(stream))[:, None],
            shortformer_pos_embed=self.positions(len(stream), everywhere=False),
        )
        return logits.view(*stream.shape[:2], -1)

    def _all_backgrounds(self) -> list[Float[Tensor, "batch pos d_model"]]:
        """By sublayer (two a layer), and of the final stream."""
        graph, found = self.graph, []
        stream = self.inputs.new_zeros(self.shape) + self._sum(slice(0, graph.n_inputs))
        for layer, parts in enumerate(self.layers):
            after = stream + self._sum(graph.head_writers(layer)) + parts.constant
            found += [stream, stream if graph.parallel else after]
            stream = after + self._sum(graph.mlp_writer(layer))
        return [*found, stream]

    def _sum(self, writers: slice) -> Tensor | float:
        return 0.0 if self._ablated is None else self._ablated[writers].sum(0)
