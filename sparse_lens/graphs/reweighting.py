"""A model whose edges have other weights for a while."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.channel import ChannelGraph

AsParameter = Callable[[Float[Tensor, "dst src"]], Tensor]
"""Lays a block's matrix out as the parameter that holds its weights."""


@contextmanager
def reweighted(
    model: HookedTransformer, graph: ChannelGraph, factors: Mapping[str, Float[Tensor, "dst src"]]
) -> Iterator[None]:
    """Inside the context each weight of these blocks is multiplied by its factor.

    The parameters themselves are changed, and at the end have the values that they had, also after
    an exception.

    Args:
        factors: by block.
    """
    changed = [
        (parameter, as_parameter(factors[name]))
        for name, parameter, as_parameter in _parameters(model, graph)
        if name in factors
    ]
    before = [parameter.detach().clone() for parameter, _ in changed]
    try:
        with torch.no_grad():
            for parameter, factor in changed:
                parameter.mul_(factor.to(parameter))
        yield
    finally:
        with torch.no_grad():
            for (parameter, _), values in zip(changed, before, strict=True):
                parameter.copy_(values)


def _parameters(
    model: HookedTransformer, graph: ChannelGraph
) -> Iterator[tuple[str, Tensor, AsParameter]]:
    """The parameter of each block, and how a block's matrix is laid out in it."""

    def transposed(matrix: Tensor) -> Tensor:
        return matrix.T

    def as_projection(matrix: Tensor) -> Tensor:
        return rearrange(matrix, "(head d_head) d_in -> head d_in d_head", head=graph.n_heads)

    def as_output(matrix: Tensor) -> Tensor:
        return rearrange(matrix, "d_model (head d_head) -> head d_head d_model", head=graph.n_heads)

    blocks: Any = model.blocks
    for layer, block in enumerate(blocks):
        for letter in "qkv":
            name = graph.block(layer, "attn_in", letter).name
            yield name, getattr(block.attn, f"W_{letter.upper()}"), as_projection
        yield graph.block(layer, "v", "attn_out").name, block.attn.W_O, as_output
        if not graph.attn_only:
            yield graph.block(layer, "mlp_in", "mlp_post").name, block.mlp.W_in, transposed
            yield graph.block(layer, "mlp_post", "mlp_out").name, block.mlp.W_out, transposed
