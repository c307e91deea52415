"""Tiny models of many architectures, with prompts and random circuits for them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import Graph
from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.patching import reference
from sparse_lens.task import Prompts
from tests.graphs.tiny import random_edge_circuit, random_node_circuit

VOCAB = 13

TOLERANCE = 1e-9
"""For models in float64, where rounding stays below it and mistakes do not."""

random_nodes, random_edges = random_node_circuit, random_edge_circuit

EVERYWHERE = "attn_in,attn_q,attn_k,attn_v,attn_out,mlp_in,mlp_neuron,mlp_out"

GEMMA = {
    "normalization_type": "RMS",
    "use_normalization_before_and_after": True,
    "gated_mlp": True,
    "n_key_value_heads": 2,
    "positional_embedding_type": "rotary",
    "rotary_dim": 4,
    "attn_scores_soft_cap": 2.0,
    "output_logits_soft_cap": 3.0,
}
OLMO2 = {
    "original_architecture": "Olmo2ForCausalLM",
    "normalization_type": "RMS",
    "gated_mlp": True,
    "positional_embedding_type": "rotary",
    "rotary_dim": 4,
}

DENSE: dict[str, dict[str, Any]] = {
    "LN": {},
    "LNPre": {"normalization_type": "LNPre"},
    "RMS": {"normalization_type": "RMS"},
    "RMSPre": {"normalization_type": "RMSPre"},
    "no norm": {"normalization_type": None},
    "attention only": {"attn_only": True, "d_mlp": None},
    "parallel": {"parallel_attn_mlp": True},
    "grouped queries": {"n_key_value_heads": 2},
    "rotary": {"positional_embedding_type": "rotary", "rotary_dim": 2},
    "alibi": {"positional_embedding_type": "alibi"},
    "soft caps": {"attn_scores_soft_cap": 2.0, "output_logits_soft_cap": 3.0},
    "gated MLP": {"gated_mlp": True, "act_fn": "silu"},
    "qk norm": {"use_qk_norm": True},
    "sinks": {"use_attention_sinks": True},
    "local attention": {
        "use_local_attn": True,
        "window_size": 2,
        "attn_types": ["local", "global"],
    },
    "clipped qkv": {"clip_qkv": 0.7},
    "one head": {"n_heads": 1},
    "Gemma 2": GEMMA,
    "OLMo 2": OLMO2,
    "OLMo 2, LayerNorm": OLMO2 | {"normalization_type": "LN"},
    "pythia": {
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": 2,
        "normalization_type": "LNPre",
    },
}

CHANNEL_DENSE = [
    "LN",
    "LNPre",
    "RMS",
    "RMSPre",
    "no norm",
    "attention only",
    "parallel",
    "rotary",
    "alibi",
    "soft caps",
    "qk norm",
    "sinks",
    "local attention",
    "clipped qkv",
    "one head",
    "pythia",
]
"""The dense models that have a channel graph."""

SPARSE: dict[str, dict[str, Any]] = {
    "plain": {},
    "LayerNorm": {"rms_norm": False},
    "AbsTopK everywhere": {"afrac": 0.5, "afrac_loctypes": EVERYWHERE},
    "AbsTopK on reads": {"afrac": 0.5, "afrac_loctypes": "attn_in,mlp_in"},
    "AbsTopK on writes": {"afrac": 0.5, "afrac_loctypes": "attn_out,mlp_out"},
    "AbsTopK on q": {"afrac": 0.5, "afrac_loctypes": "attn_q"},
    "positions": {"d_pos_emb": 5, "afrac": 0.5},
    "positions, no AbsTopK": {"d_pos_emb": 5},
    "sinks and bigram": {"sink": True, "enable_bigram_table": True, "afrac": 0.5},
    "one head": {"n_head": 1},
    "all of it": {
        "sink": True,
        "enable_bigram_table": True,
        "d_pos_emb": 4,
        "afrac": 0.6,
        "afrac_loctypes": EVERYWHERE,
    },
}

NO_SUM: dict[str, dict[str, Any]] = {
    "residual relu": {"residual_activation_type": "relu"},
    "AbsTopK on the stream": {
        "afrac": 0.5,
        "afrac_loctypes": EVERYWHERE + ",resid_post_attn,resid_post_mlp",
    },
}
"""Sparse GPTs whose stream is not the sum of the writes to it: they have no component graph."""


def dense(name: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> HookedTransformer:
    """A HookedTransformer of the table above, with random weights, gains and biases."""
    values: dict[str, Any] = {
        "n_layers": 2,
        "n_heads": 4,
        "d_model": 16,
        "d_head": 4,
        "d_mlp": 24,
        "n_ctx": 10,
        "d_vocab": VOCAB,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "device": "cpu",
        "seed": 0,
        "dtype": dtype,
    }
    changes = DENSE[name] | changes
    if changes.get("n_heads") == 1:
        changes = {"d_head": 16} | changes
    model = HookedTransformer(HookedTransformerConfig(**(values | changes)))
    return randomised(model)


def sparse(name: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> HookedSparseGPT:
    """A sparse GPT of the table above, with 60% of its weights at zero."""
    values: dict[str, Any] = {
        "block_size": 10,
        "vocab_size": VOCAB,
        "n_layer": 2,
        "n_head": 4,
        "d_head": 3,
        "d_model": 16,
        "d_mlp": 20,
        "rms_norm": True,
        "tied_unembed": False,
    }
    values |= (SPARSE | NO_SUM)[name] | changes
    model = HookedSparseGPT(SparseGPTConfig(**values), dtype=dtype)
    return randomised(model, density=0.4)


COMPONENT_MODELS = [*((dense, name) for name in DENSE), *((sparse, name) for name in SPARSE)]
"""The models with a component graph: the function that makes each, and its name."""

CHANNEL_MODELS = [
    *((dense, name) for name in CHANNEL_DENSE),
    *((sparse, name) for name in SPARSE | NO_SUM),
]
"""The models with a channel graph, likewise."""


def id_of(model: tuple[Any, str]) -> str:
    """The id of a model in pytest's output, such as `dense LN`."""
    make, name = model
    return f"{make.__name__} {name}"


def _each(models: list[tuple[Any, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("make", "name"), models, ids=[id_of(m) for m in models])


each_component_model = _each(COMPONENT_MODELS)
each_channel_model = _each(CHANNEL_MODELS)


def randomised(model: Any, *, density: float = 1.0) -> Any:
    """The model with random weights large enough that each part changes the logits."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            leaf = name.rsplit(".", 1)[-1]
            if leaf.startswith(("W_", "_W")):
                keep = torch.rand(parameter.shape, generator=generator) < density
                is_embedding = leaf in ("W_E", "W_pos")
                noise = noise * keep * (0.7 if is_embedding else 0.35)
            else:
                is_gain = leaf == "w"
                noise = 0.3 * noise + (1.0 if is_gain else 0.0)
            parameter.copy_(noise)
    return model


def prompts(n: int = 3, width: int = 6, *, seed: int = 0, padded: bool = False) -> Prompts:
    """Random clean and corrupted prompts."""
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted = torch.randint(VOCAB, (2, n, width), generator=generator)
    answers = torch.randint(VOCAB, (n,), generator=generator)
    return Prompts(
        clean=clean,
        corrupted=corrupted,
        answers=answers,
        distractors=(answers + 1) % VOCAB,
        lengths=torch.arange(width - n + 1, width + 1) if padded else None,
    )


def random_masks(graph: Graph, seed: int, dtype: torch.dtype) -> tuple[dict, dict]:
    """Soft masks of all nodes and edges, as leaves that need gradients."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype).requires_grad_()

    nodes = {name: leaf(shape) for name, shape in graph.site_shapes.items()}
    return nodes, {name: leaf(shape) for name, shape in graph.block_shapes.items()}


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    return float((a.detach() - b.detach()).abs().max())


def activations(model: Any, graph: Graph, tokens: Tensor) -> dict[str, Tensor]:
    """The values of all nodes in a run of the whole model, by the slow reference."""
    return reference.activations(model, Circuit.full(graph), tokens)
