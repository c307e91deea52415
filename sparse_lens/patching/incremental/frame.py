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
from sparse_lens.patching.incremental.prompt_attention import PromptAttention
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
        rows = torch.arange(len(tokens), device=tokens.device)
        answers = AnswerPositions(rows, prompts.answer_positions.to(tokens.device))
        self.graph = graph
        self.layers = [LayerParts(model, layer) for layer in range(graph.n_layers)]
        embedded = Embedded.of(model, graph, tokens)
        ablated = self._ablated_run(bound, prompts, embedded.inputs)
        prefix = NO_PREFIX
        if skip_shared and bound.tokens_of(prompts) is not None:
            prefix = SharedPrefix.of(graph, self.layers, embedded, ablated, answers)
        self.answers = answers.after(prefix.length)
        self.embedded = embedded.after(prefix.length)
        self.ablated = ablated.after(prefix.length)
        self.shape = tuple(self.embedded.inputs.shape[1:])
        """batch, pos, d_model; positions are those that are not left out."""
        layers = [parts.attention for parts in self.layers]
        self.attention = PromptAttention(layers, self.embedded, self.answers, prefix)
        streams = self.ablated.streams.items()
        self._ablated_at_answer = {key: self.answers.take(stream) for key, stream in streams}
        self._unembed = plain_unembedding(model)
        self._model: Any = None if self._unembed else without_hooks(model)
        self._answer_tokens = tokens[answers.rows, answers.columns]

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
        values = self.embedded.positions
        if values is None:
            return None
        values = values if all_positions else self.answers.take(values)[:, None]
        return values.expand(variants, *values.shape).flatten(0, 1)

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
