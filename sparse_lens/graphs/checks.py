"""Which models have which graph; the others are refused with the reason."""

from transformer_lens import HookedTransformerConfig
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES


def check_has_layers(cfg: HookedTransformerConfig) -> None:
    """Refuse models in which nothing stands between the embedding and the output."""
    if cfg.n_layers == 0:
        raise ValueError("a graph needs a model with layers, and this one has n_layers 0.")


def check_stream_is_sum(
    cfg: HookedTransformerConfig, sparse: object | None, split_embeddings: bool
) -> None:
    """Refuse models whose residual stream is not the sum of what is written to it.

    Args:
        sparse: the `sparse_cfg` of a sparse GPT, None for any other model.
    """
    architecture = cfg.original_architecture or ""
    if any(name in architecture for name in ("Bert", "T5")):
        raise ValueError(
            f"the component graph is for decoder-only models, got {architecture}: its blocks "
            "normalise the stream itself or attend to an encoder."
        )
    if cfg.positional_embedding_type == "relative_positional_bias":
        raise ValueError(
            "the component graph is for decoder-only models, got relative positional biases (T5)."
        )
    if sparse is not None:
        _check_sparse_stream(sparse)
    elif cfg.positional_embedding_type == "shortformer":
        raise ValueError(
            "positional_embedding_type 'shortformer' adds positions to queries and keys only, "
            "beside the residual stream; the component graph has no edge for that."
        )
    if split_embeddings:
        _check_embeddings_can_be_split(cfg, sparse)


def _check_sparse_stream(sparse: object) -> None:
    if getattr(sparse, "residual_activation_type", "identity") != "identity":
        raise ValueError(
            f"residual_activation_type {sparse.residual_activation_type!r} acts on the stream "  # type: ignore[attr-defined]
            "after each sublayer, so it is not the sum of its writers and has no component graph; "
            "use ChannelGraph.from_model(model)."
        )
    places = abs_topk_places(sparse) & {"resid_post_attn", "resid_post_mlp"}
    if places:
        raise ValueError(
            f"an AbsTopK at {', '.join(sorted(places))} acts on the residual stream, so it is not "
            "the sum of its writers and has no component graph; "
            "use ChannelGraph.from_model(model)."
        )


def _check_embeddings_can_be_split(cfg: HookedTransformerConfig, sparse: object | None) -> None:
    positions = cfg.positional_embedding_type
    if sparse is not None and positions == "shortformer":
        raise ValueError(
            "split_embeddings: this model concatenates its position embedding to the input of each "
            "sublayer as a constant; nothing but the token embedding is written to the stream."
        )
    if positions != "standard":
        raise ValueError(
            f"split_embeddings needs a position embedding that is added to the stream, got "
            f"positional_embedding_type {positions!r}; leave split_embeddings=False."
        )
    if cfg.post_embedding_ln:
        raise ValueError(
            "split_embeddings: post_embedding_ln normalises the sum of token and position "
            "embedding, so neither is written by itself; leave split_embeddings=False."
        )


def check_channels_have_edges(cfg: HookedTransformerConfig, sparse: object | None) -> None:
    """Refuse models whose channels have no agreed edges."""
    reasons = {
        "gated MLPs (gated_mlp)": cfg.gated_mlp,
        "mixtures of experts (num_experts)": bool(cfg.num_experts),
        "grouped queries (n_key_value_heads)": cfg.n_key_value_heads not in (None, cfg.n_heads),
        "post-norms (use_normalization_before_and_after)": cfg.use_normalization_before_and_after,
        f"post-norms (original_architecture {cfg.original_architecture})": (
            cfg.original_architecture in POST_NORM_ARCHITECTURES
        ),
        "positional_embedding_type 'shortformer'": (
            sparse is None and cfg.positional_embedding_type == "shortformer"
        ),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(
            f"the channel graph has no agreed edges for models with {', '.join(found)}; "
            "use ComponentGraph.from_model(model)."
        )


def abs_topk_places(sparse: object) -> frozenset[str]:
    """Where a sparse GPT has an AbsTopK, by the names of `afrac_loctypes`."""
    fraction = getattr(sparse, "afrac", None)
    if fraction is None or fraction >= 1:  # all of the values are kept
        return frozenset()
    places = getattr(sparse, "afrac_loctypes", ()) or ()
    return frozenset(places.split(",") if isinstance(places, str) else places)
