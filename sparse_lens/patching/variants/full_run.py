"""A model in parts on tokens: its embeddings, and what its writers carry in its own run."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import LETTERS, ComponentGraph
from sparse_lens.patching.component.writers import EmbeddingOutputs
from sparse_lens.patching.hooks import Attachment, Hooks
from sparse_lens.patching.suspension import suspended
from sparse_lens.patching.variants.layer_parts import LayerParts


@dataclass(frozen=True, eq=False)
class Embedded:
    """What a model's embeddings make of tokens."""

    inputs: Float[Tensor, "inputs batch pos d_model"]
    """the embedding, or token and position embedding when they are split"""

    positions: Float[Tensor, "batch pos d_pos"] | None
    """position embeddings that sublayers read beside the stream"""

    mask: Tensor | None
    """false on padding, where the model needs to be told"""


@torch.no_grad()
def embed(
    model: HookedTransformer, graph: ComponentGraph, tokens: Int[Tensor, "batch pos"]
) -> Embedded:
    """Of tokens on any device."""
    outputs, captures = EmbeddingOutputs(graph), Hooks()
    outputs.watch(captures)
    attachment = Attachment(model, edits={}, captures=captures.merged())
    with suspended(model), attachment.attached():
        stream, _, positions, mask = model.input_to_embed(tokens.to(model.cfg.device))
        inputs = outputs.each(stream, torch.arange(graph.n_inputs, device=stream.device))
    if positions is not None:
        positions = positions.expand(*inputs.shape[1:3], -1)
    return Embedded(inputs, positions, mask)


def causal_mask(inputs: Float[Tensor, "inputs batch pos d"]) -> Float[Tensor, "pos pos"]:
    """To be added to scores, `[query, key]`."""
    pos = inputs.shape[2]
    mask = torch.full((pos, pos), -torch.inf, dtype=inputs.dtype, device=inputs.device)
    return mask.triu(1)


@torch.no_grad()
def writer_outputs(
    graph: ComponentGraph, layers: list[LayerParts], embedded: Embedded
) -> Float[Tensor, "writers batch pos d_model"]:
    """The outputs of all writers of the full model."""
    inputs, positions = embedded.inputs, embedded.positions
    batch, pos, width = inputs.shape[1:]
    causal = causal_mask(inputs)
    outputs = inputs.new_empty(graph.n_writers, batch, pos, width)
    outputs[: graph.n_inputs] = inputs
    stream = inputs.sum(0)
    everyone = list(range(graph.n_heads))
    readers = tuple(range(len(LETTERS) * graph.n_heads))
    for layer, parts in enumerate(layers):
        read = parts.read_(stream.flatten(0, 1)[None].clone(), positions)
        found = parts.project(readers, read.expand(len(readers), -1, -1))
        queries, keys, values = found.view(len(LETTERS), graph.n_heads, batch, pos, -1)
        if parts.is_plain and embedded.mask is None:
            z = parts.attend_plainly(queries, keys, values, causal)
        else:
            by_head = (one.permute(1, 2, 0, 3) for one in (queries, keys, values))
            z = parts.attend(everyone, *by_head, embedded.mask).permute(2, 0, 1, 3)
        heads = outputs[graph.heads(layer).writers]
        heads.copy_(parts.write(everyone, z.flatten(1, 2)).view_as(heads))
        after = stream + heads.sum(0) + parts.constant
        if not graph.attn_only:
            mlp = parts.mlp(stream if graph.parallel else after, positions)
            outputs[graph.mlp(layer).writers] = mlp
            after = after + mlp
        stream = after
    return outputs
