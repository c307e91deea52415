"""The configuration of a weight-sparse GPT, with the field names of the released files."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

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
"""Every location that an AbsTopK can have."""

_HARMLESS = frozenset(
    [
        # How activations are computed, not what they are; and what acts in training alone.
        *("dropout", "dropout_cat_pos_emb", "debug_nans", "debug_exact_topk", "grad_checkpointing"),
        *("flash", "enable_sparse_kernels", "sparse_matmul_impl", "afrac_approx", "rtopk"),
        *("ignore_dw_grad", "compile", "dtype"),
        # What sizes were derived from.
        *("pfrac", "expansion_factor", "expansion_factor_mlp", "bigram_table_rank", "n_embd"),
        # How the model was trained.
        *("lr", "learning_rate", "min_lr", "weight_decay", "beta1", "beta2", "betas", "grad_clip"),
        *("optimizer", "batch_size", "max_iters", "max_steps", "n_steps", "warmup_iters"),
        *("warmup_steps", "seed", "dataset", "run_name", "wandb_project", "wandb_name"),
    ]
)
"""Keys of released files and training scripts that leave the forward pass alone."""

_RENAMED = {"n_mlp": "d_mlp"}
_FALLBACK = {"n_embd": "d_model"}  # an older key, read only when the newer one is absent

_CHOICES = {
    "activation_type": ("gelu", "relu"),
    "residual_activation_type": ("identity", "relu"),
}

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class SparseGPTConfig:
    """Architecture of a weight-sparse GPT (Gao et al. 2025, 2511.13653).

    Raises:
        ValueError: for a value out of range or of the wrong kind, or an `afrac` so small that an
            AbsTopK would keep nothing.
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
    """RMSNorm (eps of float32) instead of LayerNorm (eps 1e-5)."""

    activation_type: str = "gelu"
    """`gelu` (the exact one) or `relu`."""

    residual_activation_type: str = "identity"
    """`identity` or `relu`, on the residual stream after each sublayer is added."""

    afrac: float | None = None
    """Fraction of entries that every AbsTopK keeps; None for no AbsTopK anywhere."""

    afrac_loctypes: str = "attn_in,attn_out,mlp_in,mlp_out"
    """Comma-separated locations of the AbsTopKs, out of `AFRAC_LOCTYPES`, in any order."""

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
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "d_model"):
            self._check_size(name)
        if self.d_mlp is None:
            object.__setattr__(self, "d_mlp", 4 * self.d_model)
        if self.d_head is None:
            if self.d_model % self.n_head:
                raise ValueError(
                    f"d_model {self.d_model} is no multiple of n_head {self.n_head}: give d_head."
                )
            object.__setattr__(self, "d_head", self.d_model // self.n_head)
        for name in ("d_head", "d_mlp"):
            self._check_size(name)
        if self.d_pos_emb is not None:
            self._check_size("d_pos_emb")
        elif self.sinusoidal_cat_pos_emb:
            raise ValueError("sinusoidal_cat_pos_emb needs d_pos_emb, the width to concatenate.")
        self._check_choices()
        self._check_locations()

    def _check_size(self, name: str) -> None:
        if getattr(self, name) < 1:
            raise ValueError(f"{name} must be a positive integer, got {getattr(self, name)}.")

    def _check_choices(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")

    def _check_locations(self) -> None:
        unknown = [
            location for location in self._listed_locations() if location not in AFRAC_LOCTYPES
        ]
        if unknown:
            raise ValueError(f"afrac_loctypes names {unknown}; known locations: {AFRAC_LOCTYPES}.")
        if self.afrac is None:
            return
        if not 0 < self.afrac <= 1:
            raise ValueError(f"afrac must lie in (0, 1] or be null, got {self.afrac}.")
        for location in self._listed_locations():
            width = self._width(location)
            if self._rounded_down(location) < 1:
                raise ValueError(
                    f"afrac {self.afrac} keeps none of the {width} entries at {location} "
                    f"(int({self.afrac} * {width}) is 0); raise it."
                )

    @property
    def d_in(self) -> int:
        """Channels that a sublayer reads: d_model, and d_pos_emb if positions are concatenated."""
        return self.d_model + (self.d_pos_emb or 0)

    @property
    def stream_is_a_sum(self) -> bool:
        """Whether the residual stream is the sum of what was written to it."""
        return self.residual_activation_type == "identity" and not (
            self.has_abs_topk("resid_post_attn") or self.has_abs_topk("resid_post_mlp")
        )

    def has_abs_topk(self, location: str) -> bool:
        """Whether an AbsTopK at this location of `AFRAC_LOCTYPES` drops any entry."""
        return self.kept(location) is not None

    @property
    def abs_topk_locations(self) -> frozenset[str]:
        """The locations of `AFRAC_LOCTYPES` with an AbsTopK that drops something."""
        return frozenset(
            location for location in self._listed_locations() if self.has_abs_topk(location)
        )

    def kept(self, location: str) -> int | None:
        """Number of entries that the AbsTopK at `location` keeps; None where all pass.

        Rounded down as upstream does it, in floating point: 0.29 of 100 is 28.

        Raises:
            ValueError: for a name that is not in `AFRAC_LOCTYPES`.
        """
        if location not in AFRAC_LOCTYPES:
            raise ValueError(f"no location {location!r} for an AbsTopK; known: {AFRAC_LOCTYPES}.")
        if self.afrac is None or location not in self._listed_locations():
            return None
        kept = self._rounded_down(location)
        return kept if kept < self._width(location) else None

    def _rounded_down(self, location: str) -> int:
        return int((self.afrac or 0) * self._width(location))

    def _listed_locations(self) -> list[str]:
        return [location for location in self.afrac_loctypes.split(",") if location]

    def _width(self, location: str) -> int:
        if location in ("attn_in", "mlp_in"):
            return self.d_in
        if location in ("attn_q", "attn_k", "attn_v"):
            return self.n_head * self.d_head
        return self.d_mlp if location == "mlp_neuron" else self.d_model

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SparseGPTConfig":
        """Read the keys of a released file.

        Raises:
            ValueError: for a key that is not known (it might change the forward pass), or one that
                is known to change it in a way that is not supported.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"ignored"}
        parsed: dict[str, Any] = {}
        ignored: dict[str, Any] = {}
        for key, value in values.items():
            name = _RENAMED.get(key, key)
            if key in _FALLBACK and _FALLBACK[key] not in values:
                name = _FALLBACK[key]
            if name in known:
                if parsed.get(name) not in (None, value) and value is not None:
                    raise ValueError(
                        f"the config gives {name} twice: {parsed[name]!r} and {value!r}."
                    )
                parsed[name] = parsed.get(name) if value is None else value
            elif key in _HARMLESS or value is None or value is False:
                ignored[key] = value
            else:
                raise ValueError(_refusal(key, value, known))
        return cls(**_in_field_types(_without_nulls(parsed)), ignored=ignored)

    @classmethod
    def from_file(cls, path: Path) -> "SparseGPTConfig":
        """Read a `beeg_config.json` or `config.json`.

        Raises:
            ValueError: naming the file, when it is not a JSON object or :meth:`from_dict` refuses.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid JSON ({error}); fetch it again.") from error
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


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is null and has a default: only a width or fraction is null for "none"."""
    optional = {"d_head", "d_mlp", "d_pos_emb", "afrac"}
    if values.get("afrac") is None:
        optional.add("afrac_loctypes")
    return {k: v for k, v in values.items() if v is not None or k not in optional}


def _in_field_types(values: dict[str, Any]) -> dict[str, Any]:
    """JSON values in the types of the fields."""
    values = dict(values)
    if isinstance(values.get("afrac_loctypes"), list):
        values["afrac_loctypes"] = ",".join(map(str, values["afrac_loctypes"]))
    if type(values.get("afrac")) is int:
        values["afrac"] = float(values["afrac"])
    hints = get_type_hints(SparseGPTConfig)
    for name, value in values.items():
        kind = next(kind for kind in _KINDS if kind in (hints[name], *get_args(hints[name])))
        if type(value) is not kind:
            raise ValueError(f"{name} must be {_KINDS[kind]}, got {value!r}.")
    return values


def _refusal(key: str, value: Any, known: set[str]) -> str:
    close = difflib.get_close_matches(key, sorted(known | _HARMLESS), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"config key {key!r} (value {value!r}) is not supported{hint}. It may change the forward "
        "pass, so the model is not loaded; remove the key if it is harmless."
    )
