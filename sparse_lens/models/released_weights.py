"""The weights of a HookedSparseGPT under the released files' names and in their layout."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.initial_weights import absent_parameters
from sparse_lens.models.sparse_gpt import HookedSparseGPT

_EMBEDDING, _UNEMBEDDING = "transformer.wte.weight", "lm_head.weight"
_LOGITS_BIAS = "final_logits_bias"
_CAUSAL_MASKS = (".attn.bias", ".attn.masked_bias")  # buffers of models trained without flash
_MAX_LISTED = 8
"""Names that an error lists; the others are counted."""


def released_state_dict(model: HookedSparseGPT) -> dict[str, Tensor]:
    """The model's weights under their released names and in the released layout, as copies.

    Raises:
        ValueError: when the model has weights that its config excludes: biases, or an unembedding
            that differs from the embedding it is tied to.
    """
    cfg = model.sparse_cfg
    if cfg.tied_unembed and not torch.equal(model.embed.W_E, model.unembed.W_U.T):
        raise ValueError(
            "the config ties embedding and unembedding (tied_unembed), but embed.W_E and "
            "unembed.W_U differ: were they trained apart? Make the model with tied_unembed=False."
        )
    biased = [name for name in absent_parameters(model, cfg) if model.get_parameter(name).any()]
    if biased:
        raise ValueError(
            f"the config says that there are no such biases, but {_listed(biased)} are not zero; "
            "make the model with bias=True and ln_bias=True."
        )
    return {
        name: torch.cat([view.detach() for view in views]).contiguous()
        for name, views in _layout(model)
    }


@torch.no_grad()
def load_released_state_dict(model: HookedSparseGPT, weights: Mapping[str, Tensor]) -> None:
    """Copy weights under their released names into a model.

    Causal-mask buffers are ignored; `final_logits_bias` may be missing, and so may one of two tied
    matrices.

    Raises:
        ValueError: naming every missing, extra or misshapen weight; the model is then unchanged.
    """
    weights = {k: v for k, v in weights.items() if not k.endswith(_CAUSAL_MASKS)}
    cfg = model.sparse_cfg
    weights.setdefault(_LOGITS_BIAS, torch.zeros(cfg.vocab_size))
    if cfg.tied_unembed:
        for present, absent in ((_EMBEDDING, _UNEMBEDDING), (_UNEMBEDDING, _EMBEDDING)):
            if present in weights:
                weights.setdefault(absent, weights[present])
    layout = list(_layout(model))
    _check_names(weights, [name for name, _ in layout])
    _check_shapes(weights, layout)
    if cfg.tied_unembed and not torch.equal(weights[_UNEMBEDDING], weights[_EMBEDDING]):
        raise ValueError(
            f"the config ties embedding and unembedding (tied_unembed), but {_UNEMBEDDING} and "
            f"{_EMBEDDING} differ."
        )
    for name, views in layout:
        parts = weights[name].split([len(view) for view in views])
        for view, part in zip(views, parts, strict=True):
            view.copy_(part)


def _layout(model: HookedSparseGPT) -> Iterator[tuple[str, list[Tensor]]]:
    """Each released name with views of the model's parameters, which are concatenated there."""
    cfg = model.sparse_cfg
    yield _EMBEDDING, [model.embed.W_E]
    yield "transformer.wpe.weight", [model.pos_embed.W_pos]
    block: Any
    for layer, block in enumerate(model.blocks):
        prefix = f"transformer.h.{layer}"
        norms: dict[str, Any] = {"ln_1": block.ln1, "ln_2": block.ln2}
        if cfg.d_pos_emb is not None:
            norms |= {"ln_p1": block.ln_p1, "ln_p2": block.ln_p2}
        for name, norm in norms.items():
            yield from _norm(f"{prefix}.{name}", norm, cfg)
        attn, mlp = block.attn, block.mlp
        # Released matrices are [out, in]. The heads are separate, as their views cannot be joined.
        heads = [head.T for weight in (attn.W_Q, attn.W_K, attn.W_V) for head in weight]
        W_O = rearrange(attn.W_O, "head d_head d_model -> d_model (head d_head)")
        yield f"{prefix}.attn.c_attn.weight", heads
        yield f"{prefix}.attn.c_proj.weight", [W_O]
        yield f"{prefix}.mlp.c_fc.weight", [mlp.W_in.T]
        yield f"{prefix}.mlp.c_proj.weight", [mlp.W_out.T]
        if cfg.bias:
            biases = (attn.b_Q, attn.b_K, attn.b_V)
            yield f"{prefix}.attn.c_attn.bias", [bias.flatten() for bias in biases]
            yield f"{prefix}.attn.c_proj.bias", [attn.b_O]
            yield f"{prefix}.mlp.c_fc.bias", [mlp.b_in]
            yield f"{prefix}.mlp.c_proj.bias", [mlp.b_out]
        if cfg.sink:
            yield f"{prefix}.attn.attn_imp.sink_logit", [attn.sinks]
    yield from _norm("transformer.ln_f", model.ln_final, cfg)
    yield _UNEMBEDDING, [model.unembed.W_U.T]
    yield _LOGITS_BIAS, [model.unembed.b_U]
    if cfg.enable_bigram_table:
        yield "bigram_table", [model.bigram_table]


def _norm(name: str, norm: Any, cfg: SparseGPTConfig) -> Iterator[tuple[str, list[Tensor]]]:
    yield f"{name}.weight", [norm.w]
    if cfg.ln_bias and not cfg.rms_norm:
        yield f"{name}.bias", [norm.b]


def _check_names(weights: Mapping[str, Tensor], expected: list[str]) -> None:
    missing = [name for name in expected if name not in weights]
    extra = [name for name in weights if name not in expected]
    if missing or extra:
        problems = [f"missing {_listed(missing)}"] * bool(missing)
        problems += [f"unexpected {_listed(extra)}"] * bool(extra)
        raise ValueError(f"the weights do not fit the config: {'; '.join(problems)}.")


def _check_shapes(weights: Mapping[str, Tensor], layout: list[tuple[str, list[Tensor]]]) -> None:
    problems = []
    for name, views in layout:
        expected = (sum(len(view) for view in views), *views[0].shape[1:])
        if weights[name].shape != expected:
            problems.append(f"{name} has shape {tuple(weights[name].shape)}, expected {expected}")
    if problems:
        raise ValueError(f"the weights do not fit the config: {_listed(problems, '; ')}.")


def _listed(names: list[str], separator: str = ", ") -> str:
    more = len(names) - _MAX_LISTED
    return separator.join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
