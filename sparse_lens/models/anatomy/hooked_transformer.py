"""What TransformerLens builds from a HookedTransformerConfig."""

from transformer_lens import HookedTransformerConfig
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from sparse_lens.models.anatomy.anatomy import Anatomy

# TransformerLens lists these where it builds and calls the norms (AbstractAttention).
_JOINT_QK_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")


def hooked_transformer_anatomy(cfg: HookedTransformerConfig) -> Anatomy:
    """The anatomy of any plain HookedTransformer with this configuration."""
    norms_before = cfg.original_architecture not in POST_NORM_ARCHITECTURES
    normed = norms_before and cfg.normalization_type is not None
    has_mlp = not cfg.attn_only
    return Anatomy(
        n_layers=cfg.n_layers,
        attn_only=bool(cfg.attn_only),
        parallel=bool(cfg.parallel_attn_mlp) and has_mlp,
        attn_norms=("ln1",) if normed else (),
        mlp_norms=("ln2",) if normed and has_mlp else (),
        grouped_heads=_has_grouped_heads(cfg),
        joint_qk_norm=cfg.original_architecture in _JOINT_QK_NORM,
        plain_attention=_is_plain_attention(cfg),
        value_clip=cfg.clip_qkv,
        attn_post_norm=_post_norm(cfg, "ln1"),
        mlp_post_norm=_post_norm(cfg, "ln2") if has_mlp else None,
        caps_logits=cfg.output_logits_soft_cap > 0,
        stream_is_no_sum=_why_no_sum(cfg),
        embeddings_are_one=_why_embeddings_are_one(cfg),
        no_channel_edges=_without_channel_edges(cfg),
    )


def _post_norm(cfg: HookedTransformerConfig, norm: str) -> str | None:
    """The norm behind a sublayer, given the name of the one that most models have before it."""
    if cfg.normalization_type is None:
        return None
    if cfg.use_normalization_before_and_after:
        return f"{norm}_post"
    return norm if cfg.original_architecture in POST_NORM_ARCHITECTURES else None


def _has_grouped_heads(cfg: HookedTransformerConfig) -> bool:
    return cfg.n_key_value_heads not in (None, cfg.n_heads)


def _is_plain_attention(cfg: HookedTransformerConfig) -> bool:
    return (
        cfg.positional_embedding_type == "standard"
        and cfg.attn_scores_soft_cap <= 0
        and cfg.clip_qkv is None
        and cfg.original_architecture not in _JOINT_QK_NORM
        and not (cfg.use_qk_norm or cfg.use_logn_attn or cfg.use_attention_sinks)
    )


def _why_no_decoder(cfg: HookedTransformerConfig) -> str | None:
    architecture = cfg.original_architecture or ""
    if any(name in architecture for name in ("Bert", "T5")):
        return (
            f"{architecture} is not decoder-only: its blocks normalise the stream itself or attend "
            "to an encoder"
        )
    if cfg.positional_embedding_type == "relative_positional_bias":
        return "relative positional biases are those of T5, which is not decoder-only"
    return None


def _why_no_sum(cfg: HookedTransformerConfig) -> str | None:
    if cfg.positional_embedding_type == "shortformer":
        return (
            "positional_embedding_type 'shortformer' adds positions to queries and keys only, "
            "beside the residual stream"
        )
    return _why_no_decoder(cfg)


def _why_embeddings_are_one(cfg: HookedTransformerConfig) -> str | None:
    if cfg.positional_embedding_type != "standard":
        return (
            "no position embedding is added to the stream (positional_embedding_type "
            f"{cfg.positional_embedding_type!r})"
        )
    if cfg.post_embedding_ln:
        return "post_embedding_ln normalises the sum of token and position embedding"
    return None


def _without_channel_edges(cfg: HookedTransformerConfig) -> tuple[str, ...]:
    parts = {
        "gated MLPs (gated_mlp)": cfg.gated_mlp,
        "mixtures of experts (num_experts)": bool(cfg.num_experts),
        "grouped queries (n_key_value_heads)": _has_grouped_heads(cfg),
        "post-norms (use_normalization_before_and_after)": cfg.use_normalization_before_and_after,
        f"post-norms (original_architecture {cfg.original_architecture})": (
            cfg.original_architecture in POST_NORM_ARCHITECTURES
        ),
        "positional_embedding_type 'shortformer'": cfg.positional_embedding_type == "shortformer",
        "encoders": _why_no_decoder(cfg) is not None,
    }
    return tuple(part for part, is_there in parts.items() if is_there)
