"""JSON descriptions and reproducible hashes of what a result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.task import Task

# Settings that do not change what a model computes: its devices, and which hook points are on
# (these, and the settings whose names begin with `use_`).
_IRRELEVANT_SETTINGS = ("device", "n_devices", "ungroup_grouped_query_attention")


def describe(value: Any) -> Any:
    """A value as JSON: dataclasses by class name and fields, tensors by their hashes.

    Raises:
        ValueError: for a value of any other type.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)} {tensor_hash(value)}"
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__qualname__, **describe_fields(value)}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [describe(item) for item in value]
    raise ValueError(
        f"cannot record {value!r}: methods and ablations are recorded by their fields, which must "
        "be numbers, strings, tensors, sequences, mappings or dataclasses of these."
    )


def describe_fields(value: Any) -> dict[str, Any]:
    """A dataclass's fields as JSON."""
    return {f.name: describe(getattr(value, f.name)) for f in fields(value)}


def json_hash(value: Any) -> str:
    """Hex digest of a JSON value, independent of the order of its keys."""
    return _hex(json.dumps(value, sort_keys=True).encode())


def tensor_hash(tensor: Tensor) -> str:
    """Hex digest of a tensor's type, shape and entries."""
    return _hex(*_tensor_parts(tensor))


def model_hash(model: HookedTransformer) -> str:
    """Hex digest of what a model's results depend on: weights, configuration, reference tokens."""
    parts: list[bytes] = []
    for name, tensor in sorted(model.state_dict().items()):
        parts += [name.encode(), *_tensor_parts(tensor)]
    reference = getattr(model, "reference_tokens", None)
    if reference is not None:
        parts += [b"reference_tokens", *_tensor_parts(reference)]
    config = {
        name: str(value)
        for name, value in vars(model.cfg).items()
        if name not in _IRRELEVANT_SETTINGS
        and not name.startswith("use_")
        and isinstance(value, (bool, int, float, str, list, tuple, torch.dtype))
    }
    config["use_sinks"] = str(getattr(model.cfg, "use_attention_sinks", None))
    config["sparse_cfg"] = describe(getattr(model, "sparse_cfg", None))
    return _hex(*parts, json_hash(config).encode())


def task_hash(task: Task) -> str:
    """Hex digest of a task's prompts and answers in all splits."""
    parts = [describe(split) for split in (task.train, task.validation, task.held_out)]
    return json_hash(parts)


def tokenizer_hash(tokenizer: Any) -> str | None:
    """Hex digest of a tokenizer's definition; None if it has no fast implementation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else _hex(backend.to_str().encode())


def _tensor_parts(tensor: Tensor) -> list[bytes]:
    tensor = tensor.detach().cpu().contiguous()
    header = f"{tensor.dtype} {list(tensor.shape)}".encode()
    return [header, tensor.reshape(-1).view(torch.uint8).numpy().tobytes()]


def _hex(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))  # so that parts cannot run into each other
        digest.update(part)
    return digest.hexdigest()
