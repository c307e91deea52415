"""A weight-sparse GPT that is a HookedTransformer.

The stock constructors of TransformerLens build, initialise and move their parts in one go and
cannot be given other parts, so the classes here call the constructor one level up and build
their own; all parts share one config object, which is how the `set_*` flags reach them.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformerConfig
from transformer_lens.components.embed import Embed
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.pos_embed import PosEmbed
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.unembed import Unembed
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule
from transformer_lens.HookedTransformer import Output
from transformer_lens.utilities.defaults_utils import USE_DEFAULT_VALUE, LocallyOverridenDefaults
from transformer_lens.utilities.tokenize_utils import get_attention_mask

from sparse_lens.models.block import SparseBlock
from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.generation import GeneratingHookedTransformer
from sparse_lens.models.initial_weights import draw_weights, freeze_absent_parameters
from sparse_lens.models.refusals import RefusingHookedTransformer
from sparse_lens.models.run_with_cache import CachingHookedTransformer


class HookedSparseGPT(
    CachingHookedTransformer, GeneratingHookedTransformer, RefusingHookedTransformer
):
    """A weight-sparse GPT (Gao et al. 2025, 2511.13653) as a HookedTransformer.

    Beside the stock hook points there are, in each layer, `attn.hook_input` and `mlp.hook_input`
    (the sublayer's input, after norm, concatenated positions and AbsTopK) and, before the
    AbsTopK of the same name, `attn.hook_q_pre`, `attn.hook_k_pre`, `attn.hook_v_pre`,
    `attn.hook_out_pre` and `mlp.hook_out_pre`. Stock hook points lie behind the AbsTopK;
    `unembed.hook_out` lies before a bigram table is added. As in any HookedTransformer,
    `hook_attn_in`, `hook_q_input`, `hook_k_input`, `hook_v_input`, `hook_mlp_in` and
    `attn.hook_result` are silent until the `set_use_*` method of their name switches them on.
    """

    def __init__(
        self,
        sparse_cfg: SparseGPTConfig,
        *,
        tokenizer: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = 0,
    ) -> None:
        """A model with random weights.

        Args:
            device: where to put it; the CPU, or CUDA when there is some, when not given.
            seed: of the weights, see :meth:`init_weights`; None leaves the matrices uninitialised
                for a checkpoint to be loaded.

        Raises:
            ValueError: when the device is not available.
        """
        check_device(device)
        HookedRootModule.__init__(self)
        self.sparse_cfg = sparse_cfg
        self.cfg = _hooked_config(sparse_cfg, device, dtype)
        self.tokenizer = None
        self.dataset = None
        self.reference_tokens: Int[Tensor, "n pos"] | None = None
        """A sample of the training distribution, on the CPU, or None."""

        self.embed = Embed(self.cfg)
        self.hook_embed = HookPoint()  # [batch, pos, d_model]
        self.pos_embed = PosEmbed(self.cfg)
        if sparse_cfg.d_pos_emb is not None:
            shape = (sparse_cfg.block_size, sparse_cfg.d_pos_emb)
            self.pos_embed.W_pos = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.hook_pos_embed = HookPoint()  # [batch, pos, d_model or d_pos_emb]
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            SparseBlock(self.cfg, sparse_cfg, layer) for layer in range(sparse_cfg.n_layer)
        )
        self.ln_final = RMSNorm(self.cfg) if sparse_cfg.rms_norm else LayerNorm(self.cfg)
        self.unembed = Unembed(self.cfg)
        if sparse_cfg.enable_bigram_table:
            shape = (sparse_cfg.vocab_size, sparse_cfg.vocab_size)
            self.bigram_table = nn.Parameter(torch.zeros(shape, dtype=dtype))
        if tokenizer is not None:
            self.set_tokenizer(tokenizer, default_padding_side="right")
        freeze_absent_parameters(self, sparse_cfg)
        if seed is not None:
            self.init_weights(seed)
        self.to(self.cfg.device)
        self.setup()

    def init_weights(self, seed: int = 0) -> None:
        """Draw new weights: normal, std 0.02, those into the stream / sqrt(2 n_layer)."""
        draw_weights(self, self.sparse_cfg, seed)

    def forward(  # type: ignore[override]
        self,
        input: str | list[str] | Tensor,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = USE_DEFAULT_VALUE,
        padding_side: Literal["left", "right"] | None = USE_DEFAULT_VALUE,
        start_at_layer: int | None = None,
        tokens: Int[Tensor, "*batch pos"] | None = None,
        shortformer_pos_embed: Float[Tensor, "batch pos d_pos_emb"] | None = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: Any = None,
    ) -> Any:
        """As `HookedTransformer.forward`, with the bigram table added to the logits.

        With `start_at_layer`, `tokens` are needed for a loss or when there is a bigram table;
        `shortformer_pos_embed` carries concatenated position embeddings, by default those of a
        sequence from its beginning.

        Raises:
            ValueError: for an input that is not tokens, text or (with `start_at_layer`) a stream,
                or is longer than the context, and when `tokens` are needed and not given.
        """
        if return_type not in (None, "logits", "loss", "both"):
            raise ValueError(
                f"return_type must be logits, loss, both or None, got {return_type!r}."
            )
        with LocallyOverridenDefaults(self, prepend_bos=prepend_bos, padding_side=padding_side):
            if start_at_layer is None:
                tokens = self._as_tokens(input, past_kv_cache)
                attention_mask = self._as_mask(attention_mask, tokens, past_kv_cache)
                stream, tokens, positions, attention_mask = self.input_to_embed(
                    tokens, attention_mask=attention_mask, past_kv_cache=past_kv_cache
                )
            else:
                stream = self._as_stream(input)
                tokens = None if tokens is None else self._as_tokens(tokens)
                positions = shortformer_pos_embed
                if self.sparse_cfg.d_pos_emb is not None and positions is None:
                    offset = self.get_pos_offset(past_kv_cache, len(stream))
                    _, positions = self.get_residual(stream, offset, attention_mask=attention_mask)
        if tokens is None and stop_at_layer is None:
            self._check_no_tokens_are_needed(return_type)
        for layer in range(self.cfg.n_layers)[start_at_layer:stop_at_layer]:
            stream = self.blocks[layer](
                stream,
                shortformer_pos_embed=positions,
                past_kv_cache_entry=None if past_kv_cache is None else past_kv_cache[layer],
                attention_mask=attention_mask,
            )
        if stop_at_layer is not None:
            return stream
        return self._output(
            self.ln_final(stream), tokens, attention_mask, return_type, loss_per_token
        )

    def _output(
        self,
        normed: Float[Tensor, "batch pos d_model"],
        tokens: Int[Tensor, "batch pos"] | None,
        attention_mask: Tensor | None,
        return_type: str | None,
        loss_per_token: bool,
    ) -> Any:
        if return_type is None:
            return None
        logits = self.unembed(normed)
        if self.sparse_cfg.enable_bigram_table:
            logits = logits + self.bigram_table[tokens]
        if return_type == "logits" or tokens is None:
            return logits
        if attention_mask is not None:  # with a key-value cache it covers earlier tokens too
            attention_mask = attention_mask[:, -logits.shape[1] :]
        loss = self.loss_fn(logits, tokens, attention_mask, per_token=loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    def _as_tokens(
        self, input: str | list[str] | Tensor, past_kv_cache: Any = None
    ) -> Int[Tensor, "batch pos"]:
        if not isinstance(input, Tensor):
            if self.tokenizer is None:
                raise ValueError("this model has no tokenizer to read text with; pass tokens.")
            input = self.to_tokens(input).long()  # an empty text gives floats
        if input.ndim not in (1, 2) or input.is_floating_point() or input.dtype == torch.bool:
            raise ValueError(
                f"expected tokens, integers of shape [batch, pos] or [pos], got {input.dtype} of "
                f"shape {tuple(input.shape)}; a stream goes with start_at_layer."
            )
        tokens = torch.atleast_2d(input).to(self.cfg.device).long()
        length = tokens.shape[1] + self.get_pos_offset(past_kv_cache, len(tokens))
        if length > self.cfg.n_ctx:
            raise ValueError(f"{length} tokens exceed the model's context of {self.cfg.n_ctx}.")
        return tokens

    def _as_mask(
        self, attention_mask: Tensor | None, tokens: Int[Tensor, "batch pos"], past_kv_cache: Any
    ) -> Tensor | None:
        """The mask for a key-value cache: the stock one treats a lone end-of-text as padding."""
        if attention_mask is not None or past_kv_cache is None:
            return attention_mask
        if self.tokenizer is None or self.tokenizer.padding_side == "right":
            return torch.ones_like(tokens)
        has_begun = past_kv_cache.previous_attention_mask.bool().any(1, keepdim=True)  # [batch, 1]
        mask = get_attention_mask(self.tokenizer, tokens, bool(self.cfg.default_prepend_bos))
        return torch.where(has_begun, 1, mask)

    def _as_stream(self, input: Any) -> Float[Tensor, "batch pos d_model"]:
        if not isinstance(input, Tensor) or not input.is_floating_point():
            raise ValueError("start_at_layer needs a stream [batch, pos, d_model] as input.")
        return input

    def _check_no_tokens_are_needed(self, return_type: str | None) -> None:
        bigram = self.sparse_cfg.enable_bigram_table and return_type is not None
        if bigram or return_type in ("loss", "both"):
            reason = (
                "this model adds a bigram table to the logits" if bigram else "a loss needs them"
            )
            raise ValueError(f"pass tokens= with start_at_layer: {reason}.")

    def to(  # type: ignore[override]
        self, *args: Any, print_details: bool = False, **kwargs: Any
    ) -> "HookedSparseGPT":
        """Move to a device, a dtype or both, in any of torch's spellings."""
        nn.Module.to(self, *args, **kwargs)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HookedSparseGPT":
        """Called by every way of moving a module: `to`, `cuda`, `bfloat16`, ..."""
        super()._apply(fn, recurse)
        weight = self.embed.W_E
        self.cfg.device, self.cfg.dtype = str(weight.device), weight.dtype
        return self


def check_device(device: torch.device | str | None) -> None:
    """Raise a ValueError for a device that is not available."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"no device {str(device)!r} can be used here: {reason}.") from error


def _hooked_config(
    cfg: SparseGPTConfig, device: torch.device | str | None, dtype: torch.dtype
) -> HookedTransformerConfig:
    hooked = HookedTransformerConfig(
        n_layers=cfg.n_layer,
        d_model=cfg.d_model,
        n_ctx=cfg.block_size,
        d_head=cfg.d_head,
        n_heads=cfg.n_head,
        d_mlp=cfg.d_mlp,
        d_vocab=cfg.vocab_size,
        act_fn=cfg.activation_type,
        normalization_type="RMS" if cfg.rms_norm else "LN",
        eps=torch.finfo(torch.float32).eps if cfg.rms_norm else 1e-5,
        # TransformerLens hands "shortformer" positions to the blocks instead of adding them.
        positional_embedding_type="standard" if cfg.d_pos_emb is None else "shortformer",
        use_attention_sinks=cfg.sink,
        default_prepend_bos=False,
        original_architecture="SparseGPT",
        init_weights=False,
        device=None if device is None else str(device),
        dtype=dtype,
    )
    # The stock count assumes that sublayers read d_model channels.
    attention = cfg.n_head * cfg.d_head * (3 * cfg.d_in + cfg.d_model)
    hooked.n_params = cfg.n_layer * (attention + cfg.d_mlp * (cfg.d_in + cfg.d_model))
    return hooked
