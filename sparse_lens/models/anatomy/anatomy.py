"""The parts of a model that graphs and patching ask for."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What a model is made of, as far as graphs and circuits depend on it.

    Fields say which parts there are; methods give the names of hook points, which here are those
    that every model of TransformerLens has. A kind of model whose parts differ from these overrides
    the methods concerned. Letters are `q`, `k` and `v`.
    """

    n_layers: int

    # Blocks.

    attn_only: bool
    """The blocks have no MLPs."""

    parallel: bool
    """Attention and MLP of a block read the same stream, so neither reads the other."""

    # From the stream to the projections of a sublayer.

    attn_norms: tuple[str, ...] = ("ln1",)
    """Modules of the block that normalise what its heads project; none where that is the stream
    itself. A second one is that of concatenated position embeddings."""

    mlp_norms: tuple[str, ...] = ("ln2",)
    """The same of the MLP; none, too, where there is no MLP."""

    concatenates_positions: bool = False
    """Sublayers read position embeddings beside the normed stream (from `hook_pos_embed`)."""

    abs_topk: frozenset[str] = frozenset()
    """Where an AbsTopK drops channels, out of `AFRAC_LOCTYPES`."""

    # Attention.

    grouped_heads: bool = False
    """Several query heads share a key head and a value head."""

    joint_qk_norm: bool = False
    """The norms of queries and keys span all heads (OLMo 2)."""

    plain_attention: bool = False
    """In heads that attend to all earlier positions, the pattern is the softmax of the products of
    queries and keys as projected, and multiplies values as projected: no rotations, norms, biases,
    caps, clips, sinks or AbsTopK."""

    value_clip: float | None = None
    """Bound on the absolute value of v, behind its hook point; None for no bound."""

    # From a sublayer to the stream.

    attn_post_norm: str | None = None
    """The norm, a module of the block, between the sum of the heads' outputs and the stream."""

    mlp_post_norm: str | None = None
    """The same of the MLP."""

    # Behind the unembedding.

    caps_logits: bool = False
    """The logits pass a soft cap (Gemma 2)."""

    has_bigram_table: bool = False
    """The logits get a row of a table, chosen by the current token."""

    # What graphs cannot be drawn of.

    stream_is_no_sum: str | None = None
    """Why the residual stream is not the sum of what is written to it; None where it is."""

    embeddings_are_one: str | None = None
    """Why token and position embedding are not written to the stream by themselves; None where
    they are."""

    no_channel_edges: tuple[str, ...] = ()
    """The parts through which channels are not joined by single weights, for an error message."""

    @property
    def heads_are_coupled(self) -> bool:
        """Whether a layer's heads act on each other otherwise than through the stream.

        They do where an AbsTopK chooses among, or a norm scales by, all heads' values together.
        """
        chosen_together = not self.abs_topk.isdisjoint(("attn_q", "attn_k", "attn_v", "attn_out"))
        return chosen_together or self.joint_qk_norm or self.attn_post_norm is not None

    @property
    def attn_is_gated(self) -> bool:
        """Whether an AbsTopK stands between the sum of the heads' outputs and the stream."""
        return "attn_out" in self.abs_topk

    @property
    def attn_reads_norm(self) -> bool:
        """Whether heads project the normed stream (or the stream) and nothing else.

        Otherwise the block's `read_attn(stream, positions)` makes what they project.
        """
        return not self.concatenates_positions and "attn_in" not in self.abs_topk

    @property
    def mlp_reads_norm(self) -> bool:
        """The same of the MLP, with the block's `read_mlp`."""
        return not self.concatenates_positions and "mlp_in" not in self.abs_topk

    @property
    def channels_precede_gain(self) -> bool:
        """Whether the norms' gains come after `attn_read` and `mlp_read`, so belong to weights."""
        return True

    # Hook points of the stream.

    @property
    def embeddings(self) -> tuple[str, str]:
        """What the token and the position embedding write."""
        return "hook_embed", "hook_pos_embed"

    @property
    def first_stream(self) -> str:
        """The residual stream before the first block."""
        return self.attn_stream(0)

    @property
    def final_stream(self) -> str:
        """The residual stream behind the last block."""
        return f"blocks.{self.n_layers - 1}.hook_resid_post"

    def attn_stream(self, layer: int) -> str:
        """The residual stream that heads read."""
        return f"blocks.{layer}.hook_resid_pre"

    def mlp_stream(self, layer: int) -> str:
        """The residual stream that an MLP reads, shared with what comes after."""
        return f"blocks.{layer}.{'hook_resid_pre' if self.parallel else 'hook_resid_mid'}"

    def mlp_in(self, layer: int) -> str:
        """A copy of that stream for the MLP alone, under `use_hook_mlp_in`."""
        return f"blocks.{layer}.hook_mlp_in"

    # Hook points of attention.

    def attn_read(self, layer: int) -> str:
        """The channels that q, k and v are projected from."""
        return f"blocks.{layer}.{'ln1.hook_normalized' if self.attn_norms else 'hook_attn_in'}"

    def projected(self, layer: int, letter: str) -> str:
        """Queries, keys or values as they come out of their projections."""
        return self.attended(layer, letter)

    def attended(self, layer: int, letter: str) -> str:
        """Queries, keys or values as attention takes them."""
        return f"blocks.{layer}.attn.hook_{letter}"

    def pattern(self, layer: int) -> str:
        """Attention patterns."""
        return f"blocks.{layer}.attn.hook_pattern"

    def z(self, layer: int) -> str:
        """Values of each head, mixed by its pattern."""
        return f"blocks.{layer}.attn.hook_z"

    def attn_sum(self, layer: int) -> str:
        """The sum of the heads' outputs, before an AbsTopK."""
        return self.attn_out(layer)

    def attn_out(self, layer: int) -> str:
        """What attention writes to the stream."""
        return f"blocks.{layer}.hook_attn_out"

    # Hook points of MLPs.

    def mlp_read(self, layer: int) -> str:
        """The channels that the neurons' inputs are projected from."""
        return f"blocks.{layer}.{'ln2.hook_normalized' if self.mlp_norms else 'hook_mlp_in'}"

    def neurons_pre(self, layer: int) -> str:
        """Neurons before their activation function."""
        return f"blocks.{layer}.mlp.hook_pre"

    def neurons(self, layer: int) -> str:
        """Neurons behind their activation function, and an AbsTopK."""
        return f"blocks.{layer}.mlp.hook_post"

    def mlp_sum(self, layer: int) -> str:
        """The sum over neurons, before an AbsTopK."""
        return self.mlp_out(layer)

    def mlp_out(self, layer: int) -> str:
        """What the MLP writes to the stream."""
        return f"blocks.{layer}.hook_mlp_out"

    def norm_scale(self, layer: int, norm: str) -> str:
        """What one of the block's norms divides by."""
        return f"blocks.{layer}.{norm}.hook_scale"
