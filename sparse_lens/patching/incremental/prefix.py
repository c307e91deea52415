"""Positions that come first, and at which every circuit does the same."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import LETTERS, ComponentGraph
from sparse_lens.patching.incremental.ablated_run import AblatedRun
from sparse_lens.patching.incremental.embedding import AnswerPositions, Embedded
from sparse_lens.patching.incremental.layer_parts import LayerParts


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """What is known of the first positions without running any circuit: their keys and values."""

    length: int
    """Positions."""

    keys_values: list[Float[Tensor, "kv head batch pos d_head"]]
    """By layer; empty for a length of 0."""

    @classmethod
    def of(
        cls,
        graph: ComponentGraph,
        layers: list[LayerParts],
        embedded: Embedded,
        ablated: AblatedRun,
        answers: AnswerPositions,
    ) -> SharedPrefix:
        """Of prompts, given a run of the model on other tokens that makes the ablated values.

        A causal model does the same in both runs up to the first position at which their inputs
        differ, so that ablating anything changes nothing there.
        """
        if ablated.values is None or not all(layer.attention.is_causal for layer in layers):
            return NO_PREFIX
        inputs = embedded.inputs
        differs = (inputs != ablated.values[: graph.n_inputs]).any(-1).any(0).any(0)  # [pos]
        differing = differs.nonzero().flatten()
        length = int(differing[0]) if len(differing) else len(differs)
        length = min(length, int(answers.columns.min()))
        if length == 0:
            return NO_PREFIX
        readers = tuple(range(len(LETTERS) * graph.n_heads))
        positions = None if embedded.positions is None else embedded.positions[:, :length]
        keys_values = []
        for layer, parts in enumerate(layers):
            stream = ablated.streams[graph.heads(layer).n_before][:, :length]
            flat = rearrange(stream, "batch pos d_model -> 1 (batch pos) d_model")
            read = parts.read_(flat.clone(), positions)  # [1, tokens, d_in]
            projected = parts.project(readers, read.expand(len(readers), -1, -1))
            by_letter = rearrange(
                projected, "(qkv head) (batch pos) d -> qkv head batch pos d", qkv=3, pos=length
            )
            keys_values.append(by_letter[1:])
        return cls(length, keys_values)


NO_PREFIX = SharedPrefix(0, [])
