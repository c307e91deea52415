"""What all circuits of a model have in common when they run on the same prompts."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.alignment import aligned, like
from sparse_lens.patching.hookless import without_hooks
from sparse_lens.patching.incremental.ablated_run import AblatedRun
from sparse_lens.patching.incremental.embedding import AnswerPositions, Embedded
from sparse_lens.patching.incremental.layer_parts import LayerParts
from sparse_lens.patching.incremental.plain import plain_unembedding
from sparse_lens.patching.incremental.prefix import NO_PREFIX, SharedPrefix
from sparse_lens.patching.incremental.spans import span
from sparse_lens.task import Prompts


class Frame:
    """A model in parts, its embedding of the prompts, and the run in which all is ablated.

    Args:
        skip_shared: leave out the positions before the first one that differs between the prompts
            and those that ablated writers saw. Heads attend to them all the same.
    """

    def __init__(self, bound: BoundAblation, prompts: Prompts, *, skip_shared: bool = True) -> None:
        model, graph = bound.model, bound.graph
        assert isinstance(graph, ComponentGraph)
        tokens = prompts.clean.to(bound.device)
        rows, columns = torch.arange(len(tokens)).to(tokens), prompts.answer_positions.to(tokens)
        answers = AnswerPositions(rows, columns)
        self.graph = graph
        self.layers = [LayerParts(model, layer) for layer in range(graph.n_layers)]
        embedded = Embedded.of(model, graph, tokens)
        ablated = self._ablated_run(bound, prompts, embedded.inputs)
        prefix = NO_PREFIX
        if skip_shared and bound.tokens_of(prompts) is not None:
            prefix = SharedPrefix.of(graph, self.layers, embedded, ablated, answers)
        self._unembed = plain_unembedding(model)
        self._model: Any = None if self._unembed else without_hooks(model)
        self._answer_tokens = tokens[rows, columns]
        self._prefix = prefix
        self._attention_mask = embedded.attention_mask
        self._set_masks(answers, embedded.inputs)

        # From here on, positions are counted from the first one that is not left out.
        n = prefix.length
        self.answers = AnswerPositions(rows, columns - n)
        self.ablated = ablated.after(n)
        self.inputs: Float[Tensor, "inputs batch pos d_model"] = embedded.inputs[:, :, n:]
        self._positions = None if embedded.positions is None else embedded.positions[:, n:]
        self.shape = tuple(self.inputs.shape[1:])
        """batch, pos, d_model"""
        streams = self.ablated.streams.items()
        self._ablated_at_answer = {key: self.answers.take(stream) for key, stream in streams}

    def ablated_stream(
        self, n_before: int, *, all_positions: bool
    ) -> Float[Tensor, "batch *pos d_model"]:
        """What readers that come after so many writers see when all their edges are cut.

        At all positions, or at the answer's alone.
        """
        return (self.ablated.streams if all_positions else self._ablated_at_answer)[n_before]

    def positions(self, variants: int, *, all_positions: bool) -> Tensor | None:
        """Position embeddings that sublayers read beside the stream.

        `[variants * batch, pos, d_pos]`; `pos` is 1 for the answer's alone.
        """
        if self._positions is None:
            return None
        values = self._positions if all_positions else self.answers.take(self._positions)[:, None]
        return values.expand(variants, *values.shape).flatten(0, 1)

    def attend(
        self,
        layer: int,
        heads: list[int],
        queries: Float[Tensor, "head variant batch *query d_head"],
        keys: Float[Tensor, "head variant batch pos d_head"],
        values: Float[Tensor, "head variant batch pos d_head"],
        *,
        all_positions: bool,
    ) -> Float[Tensor, "head variant batch *query d_head"]:
        """What some heads read out at all positions, or at the answer's alone."""
        attention, n = self.layers[layer].attention, self._prefix.length
        if n:
            first_keys, first_values = (
                part[span(heads), None].expand(-1, keys.shape[1], -1, -1, -1)
                for part in self._prefix.keys_values[layer]
            )
            keys = torch.cat([first_keys, keys], 3)  # [head, variant, batch, n + pos, d_head]
            values = torch.cat([first_values, values], 3)
        if attention.is_plain and self._attention_mask is None:
            if all_positions:
                return attention.plain(queries, keys, values, self._causal)
            # A query axis of length 1.
            z = attention.plain(queries[..., None, :], keys, values, self._causal_at_answer)
            return z[..., 0, :]
        # TransformerLens's module takes as many queries as keys; most of these are not used.
        padded = queries.new_zeros(*values.shape[:-1], queries.shape[-1])
        if all_positions:
            padded[..., n:, :] = queries
        else:
            self.answers.put(queries, padded[..., n:, :])
        z = attention.by_module(heads, padded, keys, values, self._attention_mask)[..., n:, :]
        return z if all_positions else self.answers.take(z)

    def logits(
        self, stream: Float[Tensor, "variant batch d_model"]
    ) -> Float[Tensor, "variant batch vocab"]:
        """Logits at the answer position, given the last stream there."""
        if self._unembed is not None:
            return self._unembed(stream)
        logits = self._model(
            stream.flatten(0, 1)[:, None],
            start_at_layer=self.graph.n_layers,
            tokens=self._answer_tokens.repeat(len(stream))[:, None],
            shortformer_pos_embed=self.positions(len(stream), all_positions=False),
        )
        return logits.view(*stream.shape[:2], -1)

    def _ablated_run(
        self, bound: BoundAblation, prompts: Prompts, inputs: Float[Tensor, "inputs batch pos d"]
    ) -> AblatedRun:
        shape = inputs.shape[1:]
        values = bound.writer_values(prompts)
        if values is not None:
            values = aligned(values, "writers", leading=1, batch=shape[0], pos=shape[1])
            values = like(values, inputs).expand(-1, *shape)
        biases = [parts.bias for parts in self.layers]
        return AblatedRun.of(self.graph, values, biases, inputs.new_zeros(shape))

    def _set_masks(
        self, answers: AnswerPositions, inputs: Float[Tensor, "inputs batch pos d"]
    ) -> None:
        """What is added to attention scores: 0, and -inf for keys after the query."""
        causal = inputs.new_full((inputs.shape[2], inputs.shape[2]), -torch.inf).triu(1)
        self._causal = causal[self._prefix.length :]  # [query, key]
        self._causal_at_answer = causal[answers.columns, None]  # [batch, 1, key]
