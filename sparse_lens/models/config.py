"""The configuration of a weight-sparse GPT, with the field names of the released files."""

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AFRAC_LOCTYPES = (
    "attn_in",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_out",
    "mlp_in",
    "mlp_neuron",
    "mlp_out",
    "resid_post_attn",
    "resid_post_mlp",
)
"""Every place at which an AbsTopK may stand."""

# Keys of released files that leave the forward pass alone: kernels, training, sizes stored twice.
_HARMLESS = frozenset(
    {
        "dropout",
        "dropout_cat_pos_emb",
        "debug_nans",
        "debug_exact_topk",
        "grad_checkpointing",
        "enable_sparse_kernels",
        "sparse_matmul_impl",
        "flash",
        "pfrac",
        "expansion_factor",
        "expansion_factor_mlp",
        "bigram_table_rank",
        "afrac_approx",
        "ignore_dw_grad",
        "rtopk",
    }
)
_TRAINING = re.compile(
    r"(lr|learning_rate|weight_decay|betas?\d?|eps|seed|batch_size|grad_|optim|warmup|anneal|l0_|"
    r"max_(iters|steps)|n_steps|total_|log_|eval_|save_|wandb|run_|dataset|data_|compile|dtype)"
)
_RENAMED = {"n_mlp": "d_mlp"}
_FALLBACK = {"n_embd": "d_model"}  # read when the newer key is absent, else a size stored twice


@dataclass(frozen=True)
class SparseGPTConfig:
    """Architecture of a weight-sparse GPT (Gao et al. 2025, 2511.13653).

    Raises:
        ValueError: for a value out of range or of the wrong kind.
    """

    block_size: int = 1024
    """Longest sequence, in tokens."""

    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    d_model: int = 768

    d_head: int = None  # type: ignore[assignment]  # filled in below
    """Channels a head; d_model / n_head when not given. n_head * d_head may differ from d_model."""

    d_mlp: int = None  # type: ignore[assignment]  # filled in below
    """Neurons a layer; 4 * d_model when not given."""

    bias: bool = True
    """Whether the projections of attention and MLP have biases."""

    ln_bias: bool = True
    """Whether a LayerNorm has a bias (an RMSNorm never has one)."""

    rms_norm: bool = False
    """RMSNorm (eps of float32) in place of LayerNorm (eps 1e-5)."""

    activation_type: str = "gelu"
    """`gelu` (the exact one) or `relu`."""

    residual_activation_type: str = "identity"
    """`identity` or `relu`, on the residual stream after each sublayer is added."""

    afrac: float | None = None
    """Fraction of entries that every AbsTopK keeps; None for no AbsTopK anywhere."""

    afrac_loctypes: str = "attn_in,attn_out,mlp_in,mlp_out"
    """Comma-separated places of the AbsTopKs, out of `AFRAC_LOCTYPES`."""

    tied_unembed: bool = True
    """Embedding and unembedding share one matrix."""

    enable_bigram_table: bool = False
    """The logits get a row of a [vocab, vocab] table, chosen by the current token."""

    learnable_bigram_table: bool = False

    d_pos_emb: int | None = None
    """Width of position embeddings that are concatenated to the input of each sublayer; None for
    position embeddings that are added to the stream."""

    sinusoidal_cat_pos_emb: bool = False
    """The concatenated position embeddings are fixed sinusoids."""

    sink: bool = False
    """A learnable logit per head joins the denominator of the attention softmax."""

    tokenizer_name: str = "tinypython_2k"

    ignored: dict[str, Any] = field(default_factory=dict, compare=False)
    """Keys of the file that do not concern the forward pass."""

    def __post_init__(self) -> None:
        for name, default in (
            ("d_head", self.d_model // max(self.n_head, 1)),
            ("d_mlp", 4 * self.d_model),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        self._check_sizes()
        self._check_choices()

    def _check_sizes(self) -> None:
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "d_model", "d_head", "d_mlp"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}.")
        if self.d_pos_emb is not None and (
            not isinstance(self.d_pos_emb, int) or self.d_pos_emb < 1
        ):
            raise ValueError(f"d_pos_emb must be a positive integer or null, got {self.d_pos_emb}.")
        if self.afrac is not None and not 0 < self.afrac <= 1:
            raise ValueError(f"afrac must lie in (0, 1] or be null, got {self.afrac}.")

    def _check_choices(self) -> None:
        for name, allowed in (
            ("activation_type", ("gelu", "relu")),
            ("residual_activation_type", ("identity", "relu")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")
        unknown = [place for place in self._listed_places() if place not in AFRAC_LOCTYPES]
        if unknown:
            raise ValueError(f"afrac_loctypes names {unknown}; known places: {AFRAC_LOCTYPES}.")
        if self.sinusoidal_cat_pos_emb and self.d_pos_emb is None:
            raise ValueError("sinusoidal_cat_pos_emb needs d_pos_emb, the width to concatenate.")

    def _listed_places(self) -> list[str]:
        return [place for place in self.afrac_loctypes.split(",") if place]

    @property
    def d_in(self) -> int:
        """Channels that a sublayer reads: d_model, and d_pos_emb when positions are concatenated."""
        return self.d_model + (self.d_pos_emb or 0)

    @property
    def stream_is_a_sum(self) -> bool:
        """Whether the residual stream is the sum of what was written to it."""
        return self.residual_activation_type == "identity" and not (
            self.has_abs_topk("resid_post_attn") or self.has_abs_topk("resid_post_mlp")
        )

    def has_abs_topk(self, place: str) -> bool:
        """Whether an AbsTopK stands at a place of `AFRAC_LOCTYPES`."""
        return self.afrac is not None and place in self._listed_places()

    def kept(self, place: str) -> int | None:
        """Number of entries that the AbsTopK at `place` keeps; None where there is none."""
        if place not in AFRAC_LOCTYPES:
            raise ValueError(f"no place {place!r} for an AbsTopK; known: {AFRAC_LOCTYPES}.")
        if not self.has_abs_topk(place):
            return None
        return int((self.afrac or 0) * self._width(place))

    def _width(self, place: str) -> int:
        if place in ("attn_in", "mlp_in"):
            return self.d_in
        if place in ("attn_q", "attn_k", "attn_v"):
            return self.n_head * self.d_head
        return self.d_mlp if place == "mlp_neuron" else self.d_model

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SparseGPTConfig":
        """Read the keys of a released file.

        Raises:
            ValueError: for a key that is not known (it might change the forward pass), or one that
                is known to change it in a way that is not supported.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"ignored"}
        read: dict[str, Any] = {}
        ignored: dict[str, Any] = {}
        for key, value in values.items():
            name = _RENAMED.get(key, key)
            if key in _FALLBACK and _FALLBACK[key] not in values:
                name = _FALLBACK[key]
            if name in known:
                if name in read and read[name] != value:
                    raise ValueError(
                        f"config gives {name} twice: {read[name]!r}, and {value!r} as {key!r}."
                    )
                read[name] = value
            elif _is_harmless(key, value):
                ignored[key] = value
            else:
                raise ValueError(_refusal(key, value, known))
        if not isinstance(read.get("afrac_loctypes", ""), str):
            read["afrac_loctypes"] = ",".join(read["afrac_loctypes"] or ())
        return cls(**read, ignored=ignored)

    @classmethod
    def from_file(cls, path: Path) -> "SparseGPTConfig":
        """Read a `beeg_config.json` or `config.json`."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not valid JSON ({error}); fetch the file again.") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}.")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The keys of a released file, without those that were ignored."""
        values = dataclasses.asdict(self)
        del values["ignored"]
        return values


def _is_harmless(key: str, value: Any) -> bool:
    """A key about something else than the forward pass, or a feature that is switched off."""
    about_something_else = key in _HARMLESS or key in _FALLBACK or _TRAINING.match(key)
    return bool(about_something_else) or value is None or value is False


def _refusal(key: str, value: Any, known: set[str]) -> str:
    close = difflib.get_close_matches(key, sorted(known | _HARMLESS), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"config key {key!r} (value {value!r}) is not supported{hint}. It may change the forward "
        "pass, so the model is not loaded; remove the key if it is harmless."
    )
