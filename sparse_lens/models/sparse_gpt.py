"""A weight-sparse GPT that is a HookedTransformer.

The stock constructors of TransformerLens build, initialise and move their parts in one go and
cannot be given other parts, so the classes here call the constructor one level up and build
their own; all parts share one config object, which is how the `set_*` flags reach them.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.components import Embed, LayerNorm, PosEmbed, RMSNorm, Unembed
from transformer_lens.hook_points import HookedRootModule, HookPoint
from transformer_lens.utils import USE_DEFAULT_VALUE, get_attention_mask

from sparse_lens.models.block import SparseBlock
from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.generation import generate_tokens
from sparse_lens.models.refusals import SparseActivationCache, refuse_processing

INIT_STD = 0.02


class HookedSparseGPT(HookedTransformer):
    """A weight-sparse GPT (Gao et al. 2025, 2511.13653) as a HookedTransformer.

    Beside the stock hook points there are, in each layer, `attn.hook_input` and `mlp.hook_input`
    (what the sublayer reads: after norm, concatenated positions and AbsTopK) and, before the
    AbsTopK of the same name, `attn.hook_q_pre`, `attn.hook_k_pre`, `attn.hook_v_pre`,
    `attn.hook_out_pre` and `mlp.hook_out_pre`. Stock hook points lie behind the AbsTopK.
    """

    def __init__(
        self,
        sparse_cfg: SparseGPTConfig,
        *,
        tokenizer: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        """A model with random weights: normal, std 0.02, output projections / sqrt(2 n_layer)."""
        HookedRootModule.__init__(self)
        self.sparse_cfg = sparse_cfg
        self.cfg = _hooked_config(sparse_cfg, device, dtype)
        self.tokenizer = None
        self.dataset = None
        self.reference_tokens: Int[Tensor, "n pos"] | None = None
        """A sample of the training distribution, on the CPU; None when there is none."""

        self.embed = Embed(self.cfg)
        self.hook_embed = HookPoint()  # [batch, pos, d_model]
        self.pos_embed = PosEmbed(self.cfg)
        if sparse_cfg.d_pos_emb is not None:
            self.pos_embed.W_pos = nn.Parameter(
                torch.empty(sparse_cfg.block_size, sparse_cfg.d_pos_emb, dtype=dtype)
            )
        self.hook_pos_embed = HookPoint()  # [batch, pos, d_model or d_pos_emb]
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            SparseBlock(self.cfg, sparse_cfg, layer) for layer in range(sparse_cfg.n_layer)
        )
        self.ln_final = RMSNorm(self.cfg) if sparse_cfg.rms_norm else LayerNorm(self.cfg)
        self.unembed = Unembed(self.cfg)
        if sparse_cfg.enable_bigram_table:
            self.bigram_table = nn.Parameter(
                torch.zeros(sparse_cfg.vocab_size, sparse_cfg.vocab_size, dtype=dtype),
                requires_grad=sparse_cfg.learnable_bigram_table,
            )
        if tokenizer is not None:
            self.set_tokenizer(tokenizer, default_padding_side="right")
        self._freeze_absent_parameters()
        self.init_weights(seed)
        self.to(self.cfg.device)
        self.setup()

    def _freeze_absent_parameters(self) -> None:
        """TransformerLens has every bias; those that the architecture lacks stay at zero."""
        absent = []
        for name, _ in self.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            projection_bias = leaf in ("b_Q", "b_K", "b_V", "b_O", "b_in", "b_out")
            norm_bias = leaf == "b" and not self.sparse_cfg.rms_norm
            fixed_positions = leaf == "W_pos" and self.sparse_cfg.sinusoidal_cat_pos_emb
            if (
                leaf == "b_U"
                or (projection_bias and not self.sparse_cfg.bias)
                or (norm_bias and not self.sparse_cfg.ln_bias)
                or fixed_positions
            ):
                absent.append(name)
        for name in absent:
            self.get_parameter(name).requires_grad_(False)

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> None:
        """Draw new weights with the scales of the released models' training code."""
        generator = torch.Generator().manual_seed(seed)
        into_stream = INIT_STD / (2 * self.sparse_cfg.n_layer) ** 0.5
        for name, parameter in self.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if leaf.startswith("W_"):
                std = into_stream if leaf in ("W_O", "W_out") else INIT_STD
                drawn = torch.empty(parameter.shape).normal_(0, std, generator=generator)
                parameter.copy_(drawn)
            else:
                parameter.fill_(1.0 if leaf == "w" else 0.0)
        if self.sparse_cfg.sinusoidal_cat_pos_emb:
            self.pos_embed.W_pos.copy_(sinusoidal_positions(*self.pos_embed.W_pos.shape))
        if self.sparse_cfg.tied_unembed:
            self.unembed.W_U.copy_(self.embed.W_E.T)

    def forward(  # type: ignore[override]
        self,
        input: str | list[str] | Tensor,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = USE_DEFAULT_VALUE,
        padding_side: Literal["left", "right"] | None = USE_DEFAULT_VALUE,
        start_at_layer: int | None = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        shortformer_pos_embed: Tensor | None = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: Any = None,
    ) -> Any:
        """As `HookedTransformer.forward`, with the bigram table added to the logits.

        `shortformer_pos_embed` is where concatenated position embeddings travel. With a bigram
        table `tokens` must be given when starting at a layer.
        """
        if isinstance(input, str | list):
            input = self.to_tokens(input, prepend_bos=prepend_bos, padding_side=padding_side)
        rest = {
            "prepend_bos": prepend_bos,
            "padding_side": padding_side,
            "start_at_layer": start_at_layer,
            "shortformer_pos_embed": shortformer_pos_embed,
            "attention_mask": attention_mask,
            "stop_at_layer": stop_at_layer,
            "past_kv_cache": past_kv_cache,
        }
        plain = not self.sparse_cfg.enable_bigram_table or return_type is None
        if plain or stop_at_layer is not None:
            return super().forward(
                input, return_type, loss_per_token=loss_per_token, tokens=tokens, **rest
            )
        if start_at_layer is None:
            tokens = input if input.ndim == 2 else input[None]
        elif tokens is None:
            raise ValueError(
                "this model adds a bigram table to the logits: pass tokens= with start_at_layer."
            )
        logits = super().forward(input, "logits", tokens=tokens, **rest)
        logits = logits + self.bigram_table[tokens.to(logits.device)].to(logits.dtype)
        if return_type == "logits":
            return logits
        if attention_mask is None and self.tokenizer and self.tokenizer.padding_side == "left":
            attention_mask = get_attention_mask(
                self.tokenizer, tokens, bool(self.cfg.default_prepend_bos)
            )
        loss = self.loss_fn(logits, tokens, attention_mask, per_token=loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    def run_with_cache(  # type: ignore[override]
        self, *model_args: Any, return_cache_object: bool = True, **kwargs: Any
    ) -> tuple[Any, Any]:
        """As `HookedTransformer.run_with_cache`.

        The cache refuses decompositions that AbsTopK makes wrong.
        """
        remove_batch_dim = kwargs.get("remove_batch_dim", False)
        output, cache = super().run_with_cache(*model_args, return_cache_object=False, **kwargs)
        if return_cache_object:
            cache = SparseActivationCache(cache, self, has_batch_dim=not remove_batch_dim)
        return output, cache

    @torch.inference_mode()
    def generate(  # type: ignore[override]
        self,
        input: str | list[str] | Int[Tensor, "batch pos"] = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | Sequence[int] | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = USE_DEFAULT_VALUE,
        padding_side: Literal["left", "right"] | None = USE_DEFAULT_VALUE,
        return_type: str | None = "input",
        verbose: bool = False,
    ) -> Any:
        """Sample a continuation, as `HookedTransformer.generate`.

        The stock method skips the tokens (and so a bigram table) and, with a key-value cache and
        no tokenizer, numbers positions wrongly; this one gives the same with and without a cache.
        """
        tokens = generate_tokens(
            self,
            input,
            max_new_tokens=max_new_tokens,
            stop_tokens=self._stop_tokens(eos_token_id) if stop_at_eos else (),
            sampling={
                "top_k": top_k,
                "top_p": top_p,
                "temperature": temperature,
                "freq_penalty": freq_penalty,
            }
            if do_sample
            else None,
            use_past_kv_cache=use_past_kv_cache,
            prepend_bos=prepend_bos,
            verbose=verbose,
        )
        if return_type == "input":
            return_type = "tokens" if isinstance(input, Tensor) else "str"
        if return_type == "tokens":
            return tokens
        if return_type != "str":
            raise ValueError(f"return_type must be input, str or tokens, got {return_type!r}.")
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
        return texts if isinstance(input, list) else texts[0]

    def _stop_tokens(self, eos_token_id: int | Sequence[int] | None) -> tuple[int, ...]:
        if eos_token_id is None:
            if self.tokenizer is None or self.tokenizer.eos_token_id is None:
                raise ValueError("stop_at_eos needs a tokenizer with an end-of-text token, or "
                                 "eos_token_id; pass one, or stop_at_eos=False.")
            eos_token_id = self.tokenizer.eos_token_id
        return (eos_token_id,) if isinstance(eos_token_id, int) else tuple(eos_token_id)

    def to(self, *args: Any, **kwargs: Any) -> "HookedSparseGPT":  # type: ignore[override]
        """Move to devices and dtypes, in any of torch's spellings; the config follows."""
        kwargs.pop("print_details", None)
        for target in (*args, *kwargs.values()):
            if isinstance(target, Tensor):
                self.to(target.device, target.dtype)
            elif isinstance(target, torch.device | str | int | torch.dtype) and not isinstance(
                target, bool
            ):
                target = f"cuda:{target}" if isinstance(target, int) else target
                super().to(target, print_details=False)
        return self

    def float(self) -> "HookedSparseGPT":
        """The model in float32."""
        return self.to(torch.float32)

    def double(self) -> "HookedSparseGPT":
        """The model in float64."""
        return self.to(torch.float64)

    def half(self) -> "HookedSparseGPT":
        """The model in float16."""
        return self.to(torch.float16)

    def bfloat16(self) -> "HookedSparseGPT":
        """The model in bfloat16."""
        return self.to(torch.bfloat16)


for _name in (
    "process_weights_",
    "load_and_process_state_dict",
    "fold_layer_norm",
    "center_writing_weights",
    "center_unembed",
    "fold_value_biases",
    "refactor_factored_attn_matrices",
    "from_pretrained",
    "from_pretrained_no_processing",
    "generate_stream",
):
    setattr(HookedSparseGPT, _name, refuse_processing(_name))


def sinusoidal_positions(n_positions: int, width: int) -> Float[Tensor, "n_positions width"]:
    """Fixed sinusoids: sines, then cosines, of log-spaced periods from 4 to `n_positions` tokens."""
    half = max(1, width // 2)
    longest = max(4.0, float(n_positions))
    periods = torch.logspace(
        torch.log10(torch.tensor(4.0)).item(), torch.log10(torch.tensor(longest)).item(), half
    )
    angles = torch.arange(n_positions)[:, None] * (2 * torch.pi / periods)
    table = torch.zeros(n_positions, max(width, 2 * half))
    table[:, :half], table[:, half : 2 * half] = angles.sin(), angles.cos()
    return table[:, :width]


def _hooked_config(
    cfg: SparseGPTConfig, device: torch.device | str | None, dtype: torch.dtype
) -> HookedTransformerConfig:
    return HookedTransformerConfig(
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
