"""Small models and random circuits for tests of graphs."""

from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.sparse_gpt import HookedSparseGPT


def config(n_layers: int = 2, n_heads: int = 2, d_model: int = 4, **changes: Any):
    """A plain configuration; it allocates no weights."""
    values: dict[str, Any] = {
        "n_layers": n_layers,
        "n_heads": n_heads,
        "d_model": d_model,
        "d_head": max(d_model // n_heads, 1),
        "d_mlp": None if changes.get("attn_only") else 4 * d_model,
        "n_ctx": 8,
        "d_vocab": 11,
        "act_fn": "gelu",
        "device": "cpu",
        "seed": 0,
    }
    return HookedTransformerConfig(**(values | changes))


def dense_model(**changes: Any) -> HookedTransformer:
    """A plain HookedTransformer with random weights, gains and biases."""
    model = HookedTransformer(config(**changes))
    return _randomise(model, density=1.0, seed=1)


def sparse_model(*, density: float = 0.3, **changes: Any) -> HookedSparseGPT:
    """A sparse GPT with most weights at zero."""
    values: dict[str, Any] = {
        "block_size": 8,
        "vocab_size": 11,
        "n_layer": 2,
        "n_head": 2,
        "d_head": 3,
        "d_model": 4,
        "d_mlp": 6,
        "rms_norm": True,
    }
    model = HookedSparseGPT(SparseGPTConfig(**(values | changes)))
    return _randomise(model, density=density, seed=2)


def _randomise(model: Any, density: float, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            keep = torch.rand(parameter.shape, generator=generator) < density
            parameter.copy_(noise * keep)
    return model


COMPONENT = ComponentGraph.from_config(config())
CHANNEL = ChannelGraph.from_model(sparse_model())


def small_graphs() -> dict[str, Graph]:
    """One of each kind and layout."""
    return {
        "component": COMPONENT,
        "component, split": ComponentGraph.from_config(config(), split_embeddings=True),
        "component, parallel": ComponentGraph.from_config(config(parallel_attn_mlp=True)),
        "component, attention only": ComponentGraph.from_config(config(3, attn_only=True)),
        "channel": CHANNEL,
        "channel, no final_resid": ChannelGraph.from_model(sparse_model(), final_resid=False),
        "channel, positions": ChannelGraph.from_model(sparse_model(d_pos_emb=2)),
        "channel, dense": ChannelGraph.from_model(dense_model()),
        "channel, parallel": ChannelGraph.from_model(
            _randomise(dense_model(parallel_attn_mlp=True), density=0.3, seed=3)
        ),
        "channel, attention only": ChannelGraph.from_model(dense_model(attn_only=True)),
    }


GRAPHS = small_graphs()


def random_edge_circuit(graph: Graph, share: float, seed: int) -> Circuit:
    """Each edge with probability `share`, and likewise the nodes that have no edge in the graph."""
    generator = torch.Generator().manual_seed(seed)
    edges = {
        block: support & (torch.rand(support.shape, generator=generator) < share)
        for block, support in graph.edge_support.items()
    }
    nodes = graph.unflatten(torch.rand(graph.n_nodes, generator=generator) < share)
    return Circuit.from_edge_masks(graph, edges, node_masks=nodes)


def random_node_circuit(graph: Graph, share: float, seed: int) -> Circuit:
    """Each node with probability `share`."""
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.rand(graph.n_nodes, generator=generator) < share
    return Circuit.from_node_masks(graph, graph.unflatten(nodes))
