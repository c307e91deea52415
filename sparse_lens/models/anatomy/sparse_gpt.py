"""What a weight-sparse GPT adds: AbsTopK, concatenated positions, a bigram table."""

from dataclasses import dataclass

from sparse_lens.models.anatomy.anatomy import Anatomy
from sparse_lens.models.config import SparseGPTConfig


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


def sparse_gpt_anatomy(cfg: SparseGPTConfig) -> Anatomy:
    """The anatomy of a HookedSparseGPT with this configuration."""
    concatenates = cfg.d_pos_emb is not None
    return SparseGPTAnatomy(
        n_layers=cfg.n_layer,
        attn_only=False,
        parallel=False,
        attn_norms=("ln1", "ln_p1") if concatenates else ("ln1",),
        mlp_norms=("ln2", "ln_p2") if concatenates else ("ln2",),
        concatenates_positions=concatenates,
        abs_topk=cfg.abs_topk_locations,
        has_bigram_table=cfg.enable_bigram_table,
        stream_is_no_sum=_why_no_sum(cfg),
        embeddings_are_one=(
            "this model concatenates its position embedding to the input of each sublayer as a "
            "constant, and nothing but the token embedding is written to the stream"
            if concatenates
            else None
        ),
    )


def _why_no_sum(cfg: SparseGPTConfig) -> str | None:
    if cfg.residual_activation_type != "identity":
        return (
            f"residual_activation_type {cfg.residual_activation_type!r} acts on the stream "
            "after each sublayer"
        )
    places = sorted(cfg.abs_topk_locations & {"resid_post_attn", "resid_post_mlp"})
    return f"an AbsTopK at {', '.join(places)} acts on the residual stream" if places else None
