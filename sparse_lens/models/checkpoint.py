"""Checkpoint directories: the files of a weight-sparse GPT, which are replaced all together.

A checkpoint is `beeg_config.json` + `final_model.pt` as released, or `config.json` +
`model.safetensors` as :func:`save_sparse_gpt` writes it; both hold the released parameter names.
Beside them may lie the tokenizer (`encoder.json`, `vocab.bpe`) and `reference_tokens.safetensors`,
a sample of the training distribution.
"""

import json
import os
import pickle
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from sparse_lens.models import zoo
from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.random_weights import random_weights
from sparse_lens.models.released_weights import load_released_state_dict, released_state_dict
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.models.tokenizer import (
    MERGES_FILE,
    VOCABULARY_FILE,
    load_tokenizer,
    save_tokenizer,
)

_CONFIG, _RELEASED_CONFIG = "config.json", "beeg_config.json"
_WEIGHTS, _RELEASED_WEIGHTS = "model.safetensors", "final_model.pt"
_REFERENCE = "reference_tokens.safetensors"
_OPTIONAL = (_REFERENCE, VOCABULARY_FILE, MERGES_FILE)
_STAGING = ".save-"
_UNFINISHED = ".unfinished-save"
"""The folder of an interrupted save: the files beside it may belong to another model."""

_UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, struct.error),
    *(LookupError, ValueError, TypeError, AttributeError),
)
"""Exceptions that unpickling a damaged file may raise."""


def load_sparse_gpt(
    name_or_path: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> HookedSparseGPT:
    """Load a weight-sparse GPT as a HookedTransformer with exact logits.

    Args:
        name_or_path: a model listed by `sparse-lens models`, or a checkpoint directory; with
            `random:` before it, the model with its weights at random (`random_weights`, seed 0).
        device: where to put it; the CPU, or CUDA when there is some, when not given.
        dtype: of parameters and activations; float32 when not given.

    Raises:
        ValueError: for an unknown name, a config key that is not supported, a missing, extra or
            misshapen weight, or a file that is damaged or would run code.
        FileNotFoundError: when the directory lacks config or weights.
    """
    directory = zoo.resolve(name_or_path)
    if (directory / _UNFINISHED).is_dir():
        raise ValueError(
            f"a save into {directory} was interrupted while files were replaced, so they belong to "
            f"different models; save again, or move what is in {_UNFINISHED} up and remove it."
        )
    cfg = SparseGPTConfig.from_file(_first_existing(directory, _CONFIG, _RELEASED_CONFIG))
    weights_path = _first_existing(directory, _WEIGHTS, _RELEASED_WEIGHTS)
    tokenizer = load_tokenizer(directory) if (directory / VOCABULARY_FILE).exists() else None
    weights = _read_weights(weights_path)
    model = HookedSparseGPT(
        cfg, tokenizer=tokenizer, device=device, dtype=dtype or torch.float32, seed=None
    )
    try:
        load_released_state_dict(model, weights)
    except ValueError as error:
        raise ValueError(f"{weights_path}: {error}") from error
    if (directory / _REFERENCE).exists():
        model.reference_tokens = _read_reference_tokens(directory / _REFERENCE, cfg)
    model.eval()
    return random_weights(model) if str(name_or_path).startswith(zoo.RANDOM) else model


def save_sparse_gpt(
    model: HookedSparseGPT, path: str | Path, *, dtype: torch.dtype | None = None
) -> Path:
    """Write a directory of config and weights that :func:`load_sparse_gpt` reads.

    All files are written first and then moved into place: an interrupted save leaves the earlier
    checkpoint as it was, or a directory that `load_sparse_gpt` refuses as unfinished. Other files
    in the directory are left alone. `dtype` rounds the stored weights, which still load as float32.

    Raises:
        ValueError: when the model does not match its config, or has reference tokens outside its
            vocabulary or a tokenizer that the format cannot describe.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=path, prefix=_STAGING))
    try:
        _write(model, staging, dtype)
        shutil.rmtree(path / _UNFINISHED, ignore_errors=True)
        # From here on the folder's name marks the save as unfinished.
        staging = staging.rename(path / _UNFINISHED)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    for name in _OPTIONAL:
        if not (staging / name).exists():
            (path / name).unlink(missing_ok=True)
    for file in sorted(staging.iterdir()):
        os.replace(file, path / file.name)
    staging.rmdir()
    for stale in path.glob(f"{_STAGING}*"):  # of saves that were killed
        shutil.rmtree(stale, ignore_errors=True)
    return path


def _write(model: HookedSparseGPT, directory: Path, dtype: torch.dtype | None) -> None:
    weights = {k: v.to("cpu", dtype or v.dtype) for k, v in released_state_dict(model).items()}
    # save_file would make files that only their owner can read, whatever the umask.
    (directory / _WEIGHTS).write_bytes(safetensors.torch.save(weights))
    config = json.dumps(model.sparse_cfg.to_dict(), indent=2) + "\n"
    (directory / _CONFIG).write_text(config, encoding="utf-8")
    if model.reference_tokens is not None:
        tokens = _packed(model.reference_tokens, model.sparse_cfg)
        (directory / _REFERENCE).write_bytes(safetensors.torch.save({"tokens": tokens}))
    tokenizer: Any = model.tokenizer
    if tokenizer is not None:
        save_tokenizer(tokenizer, directory)


def _packed(tokens: Int[Tensor, "n pos"], cfg: SparseGPTConfig) -> Integer[Tensor, "n pos"]:
    """Reference tokens in the smallest type that holds the vocabulary."""
    _check_reference_tokens(tokens, cfg)
    types = (torch.uint8, torch.int16, torch.int32)
    smallest = next(t for t in types if cfg.vocab_size - 1 <= torch.iinfo(t).max)
    return tokens.to("cpu", smallest).contiguous()


def _read_reference_tokens(path: Path, cfg: SparseGPTConfig) -> Int[Tensor, "n pos"]:
    tensors = _read_tensors(path)
    if list(tensors) != ["tokens"]:
        raise ValueError(f"{path} must hold one tensor, tokens, got {list(tensors)}.")
    tokens = tensors["tokens"]
    try:
        _check_reference_tokens(tokens, cfg)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return tokens.long()


def _check_reference_tokens(tokens: Tensor, cfg: SparseGPTConfig) -> None:
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] > cfg.block_size:
        raise ValueError(
            f"reference tokens must be integers [n, pos] with pos up to {cfg.block_size}, got "
            f"{tokens.dtype} of shape {tuple(tokens.shape)}."
        )
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < cfg.vocab_size:
        raise ValueError(
            f"reference tokens lie between {int(tokens.min())} and {int(tokens.max())}, outside a "
            f"vocabulary of {cfg.vocab_size}."
        )


def _read_weights(path: Path) -> dict[str, Tensor]:
    weights = _read_tensors(path)
    not_floating = [
        name
        for name, weight in weights.items()
        # Causal masks are stored as buffers of another type.
        if not (torch.is_floating_point(weight) or name.endswith(".attn.bias"))
    ]
    if not_floating:
        raise ValueError(f"{path} must hold floating-point weights, not {', '.join(not_floating)}.")
    return weights


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is no readable safetensors file ({error}).") from error
    with path.open("rb") as file:
        try:
            state: Any = torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            # torch's own message goes on to recommend loading without protection.
            raise ValueError(
                f"{path} is no plain state dict of tensors: it is damaged, or holds objects that "
                "would run code when read, which is never done. Fetch it again from where you "
                "trust it."
            ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} must hold a dictionary of tensors by name, and nothing else.")
    return state


def _first_existing(directory: Path, *names: str) -> Path:
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise FileNotFoundError(f"{directory} holds no {' or '.join(names)}; it is not a checkpoint.")
