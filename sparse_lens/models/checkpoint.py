"""Released checkpoints to HookedSparseGPT and back.

A checkpoint is a directory: `beeg_config.json` + `final_model.pt` as released, or
`config.json` + `model.safetensors` as :func:`save_sparse_gpt` writes it. Both hold the released
parameter names. Beside them may lie the tokenizer (`encoder.json`, `vocab.bpe`) and
`reference_tokens.safetensors`, a sample of the training distribution.
"""

import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from sparse_lens.models import zoo
from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.models.tokenizer import load_tokenizer, save_tokenizer

_IGNORED_SUFFIXES = (".attn.bias", ".attn.masked_bias")  # causal-mask buffers of older files


def load_sparse_gpt(
    name_or_path: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> HookedSparseGPT:
    """Load a weight-sparse GPT as a HookedTransformer with exact logits.

    Args:
        name_or_path: a model listed by `sparse-lens models`, or a checkpoint directory.
        device: where to put it; the CPU, or CUDA when there is some, when not given.
        dtype: of parameters and activations; float32 when not given.

    Raises:
        ValueError: for an unknown name, a config key that is not supported, or a missing, extra or
            misshapen weight.
        FileNotFoundError: when the directory lacks config or weights.
    """
    directory = zoo.resolve(name_or_path)
    cfg = SparseGPTConfig.from_file(_one_of(directory, "config.json", "beeg_config.json"))
    weights_path = _one_of(directory, "model.safetensors", "final_model.pt")
    tokenizer = load_tokenizer(directory) if (directory / "encoder.json").exists() else None
    model = HookedSparseGPT(cfg, tokenizer=tokenizer, device=device, dtype=dtype or torch.float32)
    try:
        load_released_state_dict(model, _read_weights(weights_path))
    except ValueError as error:
        raise ValueError(f"{weights_path}: {error}") from error
    reference = directory / "reference_tokens.safetensors"
    if reference.exists():
        model.reference_tokens = safetensors.torch.load_file(reference)["tokens"].long()
    return model.eval()


def save_sparse_gpt(
    model: HookedSparseGPT, path: str | Path, *, dtype: torch.dtype | None = None
) -> Path:
    """Write a directory of config and weights that :func:`load_sparse_gpt` reads.

    Files are written beside their final names and renamed, so an interrupted save leaves what was
    there. `dtype` rounds the stored weights (they load as float32 all the same).
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.cpu().clone() for name, tensor in released_state_dict(model)}
    if dtype is not None:
        weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    _replace(path / "model.safetensors", safetensors.torch.save(weights))
    config = json.dumps(model.sparse_cfg.to_dict(), indent=2) + "\n"
    _replace(path / "config.json", config.encode())
    if model.reference_tokens is not None:
        tokens = {"tokens": model.reference_tokens.to(torch.int16).contiguous()}
        _replace(path / "reference_tokens.safetensors", safetensors.torch.save(tokens))
    if model.tokenizer is not None:
        save_tokenizer(model.tokenizer, path)
    return path


@torch.no_grad()
def load_released_state_dict(model: HookedSparseGPT, weights: dict[str, Tensor]) -> None:
    """Copy weights under their released names into a model.

    Raises:
        ValueError: naming every missing, extra or misshapen weight.
    """
    weights = {k: v for k, v in weights.items() if not k.endswith(_IGNORED_SUFFIXES)}
    expected = dict(released_state_dict(model))
    if "final_logits_bias" not in weights:
        weights["final_logits_bias"] = torch.zeros_like(expected["final_logits_bias"])
    if model.sparse_cfg.tied_unembed and "lm_head.weight" not in weights:
        weights["lm_head.weight"] = weights.get("transformer.wte.weight", torch.empty(0))
    _check_names_and_shapes(weights, expected)
    if model.sparse_cfg.tied_unembed and not torch.equal(
        weights["lm_head.weight"], weights["transformer.wte.weight"]
    ):
        raise ValueError("tied_unembed is set, but lm_head and transformer.wte differ.")
    for name, views in _layout(model):
        for view, part in zip(views, weights[name].split([len(v) for v in views]), strict=True):
            view.copy_(part)


def released_state_dict(model: HookedSparseGPT) -> Iterator[tuple[str, Tensor]]:
    """The model's weights under their released names and in the released layout."""
    for name, views in _layout(model):
        yield name, torch.cat([view.detach() for view in views])


def _layout(model: HookedSparseGPT) -> Iterator[tuple[str, list[Tensor]]]:
    """Released name -> views of the parameters stacked along its first axis."""
    cfg = model.sparse_cfg
    yield "transformer.wte.weight", [model.embed.W_E]
    yield "transformer.wpe.weight", [model.pos_embed.W_pos]
    for layer, block in enumerate(model.blocks):
        prefix = f"transformer.h.{layer}"
        norms = {"ln_1": block.ln1, "ln_2": block.ln2}
        if cfg.d_pos_emb is not None:
            norms |= {"ln_p1": block.ln_p1, "ln_p2": block.ln_p2}
        for name, norm in norms.items():
            yield from _norm(f"{prefix}.{name}", norm, cfg)
        attn, mlp = block.attn, block.mlp
        heads = [head.T for w in (attn.W_Q, attn.W_K, attn.W_V) for head in w]
        yield f"{prefix}.attn.c_attn.weight", heads
        yield f"{prefix}.attn.c_proj.weight", [attn.W_O.flatten(0, 1).T]
        yield f"{prefix}.mlp.c_fc.weight", [mlp.W_in.T]
        yield f"{prefix}.mlp.c_proj.weight", [mlp.W_out.T]
        if cfg.bias:
            biases = (attn.b_Q, attn.b_K, attn.b_V)
            yield f"{prefix}.attn.c_attn.bias", [b.flatten() for b in biases]
            yield f"{prefix}.attn.c_proj.bias", [attn.b_O]
            yield f"{prefix}.mlp.c_fc.bias", [mlp.b_in]
            yield f"{prefix}.mlp.c_proj.bias", [mlp.b_out]
        if cfg.sink:
            yield f"{prefix}.attn.attn_imp.sink_logit", [attn.sinks]
    yield from _norm("transformer.ln_f", model.ln_final, cfg)
    yield "lm_head.weight", [model.unembed.W_U.T]
    yield "final_logits_bias", [model.unembed.b_U]
    if cfg.enable_bigram_table:
        yield "bigram_table", [model.bigram_table]


def _norm(
    name: str, norm: torch.nn.Module, cfg: SparseGPTConfig
) -> Iterator[tuple[str, list[Tensor]]]:
    yield f"{name}.weight", [norm.w]  # type: ignore[list-item]
    if cfg.ln_bias and not cfg.rms_norm:
        yield f"{name}.bias", [norm.b]  # type: ignore[list-item]


def _check_names_and_shapes(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    missing = [name for name in expected if name not in weights]
    extra = [name for name in weights if name not in expected]
    if missing or extra:
        raise ValueError(f"weights do not fit the config: missing {missing}, unexpected {extra}.")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(
                f"{name} has shape {tuple(weights[name].shape)}, the config asks for "
                f"{tuple(tensor.shape)}."
            )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile,
            RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a readable weights file ({error}); fetch it again.") from error


def _one_of(directory: Path, *names: str) -> Path:
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise FileNotFoundError(f"{directory} holds no {' or '.join(names)}; it is not a checkpoint.")


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
