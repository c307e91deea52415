"""What a weight-sparse GPT adds: AbsTopK, concatenated positions, a bigram table."""

from dataclasses import dataclass

from transformer_lens import HookedTransformerConfig

from sparse_lens.models.anatomy.anatomy import Anatomy
from sparse_lens.models.config import AFRAC_LOCTYPES, SparseGPTConfig


@dataclass(frozen=True, kw_only=True)
class SparseGPTAnatomy(Anatomy):
    """Its own hook points stand before each AbsTopK, and where sublayers read."""

    @property
    def channels_precede_gain(self) -> bool:
        return False

    def attn_read(self, layer: int) -> str:
        return f"blocks.{layer}.attn.hook_input"

    def projected(self, layer: int, letter: str) -> str:
        return f"blocks.{layer}.attn.hook_{letter}_pre"

    def attn_sum(self, layer: int) -> str:
        return f"blocks.{layer}.attn.hook_out_pre"

    def mlp_read(self, layer: int) -> str:
        return f"blocks.{layer}.mlp.hook_input"

    def mlp_sum(self, layer: int) -> str:
        return f"blocks.{layer}.mlp.hook_out_pre"


def sparse_gpt_anatomy(cfg: HookedTransformerConfig, sparse_cfg: SparseGPTConfig) -> Anatomy:
    """The anatomy of a HookedSparseGPT with these configurations."""
    concatenates = sparse_cfg.d_pos_emb is not None
    return SparseGPTAnatomy(
        n_layers=cfg.n_layers,
        attn_only=False,
        parallel=False,
        attn_norms=("ln1", "ln_p1") if concatenates else ("ln1",),
        mlp_norms=("ln2", "ln_p2") if concatenates else ("ln2",),
        concatenates_positions=concatenates,
        abs_topk=frozenset(filter(sparse_cfg.has_abs_topk, AFRAC_LOCTYPES)),
        has_bigram_table=sparse_cfg.enable_bigram_table,
        stream_is_no_sum=_why_no_sum(sparse_cfg),
        embeddings_are_one=(
            "this model concatenates its position embedding to the input of each sublayer as a "
            "constant, and nothing but the token embedding is written to the stream"
            if concatenates
            else None
        ),
    )


def _why_no_sum(sparse_cfg: SparseGPTConfig) -> str | None:
    if sparse_cfg.residual_activation_type != "identity":
        return (
            f"residual_activation_type {sparse_cfg.residual_activation_type!r} acts on the stream "
            "after each sublayer"
        )
    places = [p for p in ("resid_post_attn", "resid_post_mlp") if sparse_cfg.has_abs_topk(p)]
    return f"an AbsTopK at {', '.join(places)} acts on the residual stream" if places else None
