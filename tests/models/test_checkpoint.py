"""Checkpoints on disk: round trips, damaged files, and saves that are cut short."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from sparse_lens.models import checkpoint
from sparse_lens.models.checkpoint import load_sparse_gpt, save_sparse_gpt
from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.models.tokenizer import make_tokenizer
from tests.models.reference_gpt import random_config, random_weights

TOKENS = torch.arange(7)[None]
TINY: dict[str, Any] = {
    "block_size": 9,
    "vocab_size": 17,
    "n_layer": 2,
    "n_head": 2,
    "d_model": 12,
    "tied_unembed": False,
}


def write(folder: Path, config: dict[str, Any], weights: Any) -> Path:
    """A checkpoint directory as released models come."""
    folder.mkdir(exist_ok=True)
    (folder / "beeg_config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "final_model.pt")
    return folder


def tiny(seed: int = 0, **changes: Any) -> HookedSparseGPT:
    return HookedSparseGPT(SparseGPTConfig(**(TINY | changes)), seed=seed)


@pytest.mark.parametrize("seed", range(25))
def test_a_saved_model_loads_as_it_was(seed: int, tmp_path: Path) -> None:
    config = random_config(seed)
    released = write(tmp_path / "released", config, random_weights(config, seed))
    model = load_sparse_gpt(released)
    again = load_sparse_gpt(save_sparse_gpt(model, tmp_path / "saved" / "deep"))
    assert again.sparse_cfg == model.sparse_cfg
    assert not again.training
    for name, parameter in model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name
        assert again.get_parameter(name).requires_grad == parameter.requires_grad, name
    with torch.no_grad():
        assert torch.equal(again(TOKENS), model(TOKENS))


def test_saved_weights_have_the_released_names(tmp_path: Path) -> None:
    config = random_config(1)
    weights = random_weights(config, 1)
    model = load_sparse_gpt(write(tmp_path, config, weights))
    saved = safetensors.torch.load_file(save_sparse_gpt(model, tmp_path) / "model.safetensors")
    assert saved.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(saved[name], weight), name


def test_dtype_rounds_what_is_stored(tmp_path: Path) -> None:
    model = tiny()
    save_sparse_gpt(model, tmp_path, dtype=torch.bfloat16)
    again = load_sparse_gpt(tmp_path)
    for name, parameter in model.named_parameters():
        expected = parameter.to(torch.bfloat16).float()
        assert torch.equal(again.get_parameter(name), expected), name
        assert again.get_parameter(name).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_load_in_a_dtype_on_a_device(dtype: torch.dtype, tmp_path: Path) -> None:
    save_sparse_gpt(tiny(sink=True, enable_bigram_table=True), tmp_path)
    model = load_sparse_gpt(str(tmp_path), device=torch.device("cpu"), dtype=dtype)
    assert model.cfg.dtype == dtype
    assert model.cfg.device == "cpu"
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(TOKENS).dtype == dtype


def test_a_double_model_is_stored_in_full(tmp_path: Path) -> None:
    model = tiny().double()
    torch.nn.init.normal_(model.unembed.W_U)
    save_sparse_gpt(model, tmp_path)
    assert torch.equal(load_sparse_gpt(tmp_path, dtype=torch.float64).W_U, model.W_U)


@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [(17, torch.uint8), (256, torch.uint8), (257, torch.int16), (40_000, torch.int32)],
)
def test_reference_tokens_come_back(vocab_size: int, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny(vocab_size=vocab_size, n_layer=1)
    model.reference_tokens = torch.tensor([[0, 1, vocab_size - 1], [vocab_size - 2, 0, 5]])
    save_sparse_gpt(model, tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "reference_tokens.safetensors")["tokens"]
    assert stored.dtype == dtype
    again = load_sparse_gpt(tmp_path).reference_tokens
    assert again is not None
    assert torch.equal(again, model.reference_tokens)
    assert again.dtype == torch.long


def test_the_tokenizer_comes_back(tmp_path: Path) -> None:
    model = tiny()
    model.set_tokenizer(_tokenizer())
    again = load_sparse_gpt(save_sparse_gpt(model, tmp_path))
    assert again.to_tokens("abba").tolist() == [[0, 1, 1, 0]]
    assert again.to_string(torch.tensor([0, 1])) == "ab"
    assert again.cfg.default_prepend_bos is False


def test_a_save_leaves_nothing_of_the_model_before(tmp_path: Path) -> None:
    model = tiny()
    model.set_tokenizer(_tokenizer())
    model.reference_tokens = TOKENS
    save_sparse_gpt(model, tmp_path)
    (tmp_path / "training_log.json").write_text("[]")
    (tmp_path / ".save-killed").mkdir()  # what a process that was killed while writing leaves
    save_sparse_gpt(tiny(seed=1), tmp_path)
    again = load_sparse_gpt(tmp_path)
    assert again.reference_tokens is None
    assert again.tokenizer is None
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "model.safetensors", "training_log.json"]


def _tokenizer() -> Any:
    return make_tokenizer({"a": 0, "b": 1}, [])


# Cut short


def test_a_save_that_fails_while_writing_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_sparse_gpt(tiny(seed=1), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    other = tiny(seed=2, d_model=14)
    other.set_tokenizer(_tokenizer())
    monkeypatch.setattr(checkpoint, "save_tokenizer", fail)
    with pytest.raises(KeyboardInterrupt):
        save_sparse_gpt(other, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert torch.equal(load_sparse_gpt(tmp_path).W_E, tiny(seed=1).W_E)


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_save_that_dies_while_files_move_says_so(
    moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_sparse_gpt(tiny(seed=1), tmp_path)
    other = tiny(seed=2, afrac=0.5)  # fits the weights of the first, and would run
    other.reference_tokens = TOKENS
    left = [None] * moved

    def replace_some(source: Any, target: Any, replace: Any = os.replace) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", replace_some)
        with pytest.raises(KeyboardInterrupt):
            save_sparse_gpt(other, tmp_path)
    with pytest.raises(ValueError, match=r"interrupted while files were replaced.*save again"):
        load_sparse_gpt(tmp_path)
    save_sparse_gpt(other, tmp_path)
    again = load_sparse_gpt(tmp_path)
    assert torch.equal(again.W_E, other.W_E)
    assert again.sparse_cfg == other.sparse_cfg


def test_what_an_interrupted_save_left_can_be_moved_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_sparse_gpt(tiny(seed=1), tmp_path)

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            save_sparse_gpt(tiny(seed=2), tmp_path)
    left = tmp_path / ".unfinished-save"
    for path in left.iterdir():
        path.replace(tmp_path / path.name)
    left.rmdir()
    assert torch.equal(load_sparse_gpt(tmp_path).W_E, tiny(seed=2).W_E)


# Models that are not what their config says


def test_a_tied_model_that_was_untied_is_not_saved(tmp_path: Path) -> None:
    model = tiny(tied_unembed=True)
    with torch.no_grad():
        model.unembed.W_U[0, 0] += 1
    with pytest.raises(ValueError, match=r"ties .* but embed.W_E and unembed.W_U differ"):
        save_sparse_gpt(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"bias": False}, "blocks.0.attn.b_K"), ({"ln_bias": False}, "blocks.1.ln2.b")],
)
def test_biases_that_the_config_denies_are_not_lost(
    changes: dict[str, Any], name: str, tmp_path: Path
) -> None:
    model = tiny(**changes)
    torch.nn.init.ones_(model.get_parameter(name))
    with pytest.raises(ValueError, match=rf"no such biases, but {name} are not zero"):
        save_sparse_gpt(model, tmp_path)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[17]]), "lie between 17 and 17, outside a vocabulary of 17"),
        (torch.tensor([[-1]]), "lie between -1 and -1"),
        (torch.zeros(1, 10, dtype=torch.long), "with pos up to 9"),
    ],
)
def test_bad_reference_tokens(tokens: Tensor, message: str, tmp_path: Path) -> None:
    model = tiny()
    model.reference_tokens = tokens
    with pytest.raises(ValueError, match=message):
        save_sparse_gpt(model, tmp_path)
    model.reference_tokens = None
    save_sparse_gpt(model, tmp_path)
    safetensors.torch.save_file({"tokens": tokens}, tmp_path / "reference_tokens.safetensors")
    with pytest.raises(ValueError, match=rf"reference_tokens.safetensors: .*{message}"):
        load_sparse_gpt(tmp_path)


# Files that do not fit or cannot be read


def test_missing_and_extra_weights_are_named(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    del weights["transformer.h.1.mlp.c_fc.bias"]
    weights["transformer.h.1.mlp.c_gate.weight"] = torch.zeros(3)
    message = r"final_model.pt: .*missing transformer.h.1.mlp.c_fc.bias; unexpected .*c_gate.weight"
    with pytest.raises(ValueError, match=message):
        load_sparse_gpt(write(tmp_path, TINY, weights))


def test_weights_of_more_layers_are_not_all_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unexpected transformer.h.1.* and 4 more") as error:
        load_sparse_gpt(write(tmp_path, TINY | {"n_layer": 1}, random_weights(TINY)))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"sink": True}, "transformer.h.0.attn.attn_imp.sink_logit"),
        ({"enable_bigram_table": True}, "bigram_table"),
        ({"d_pos_emb": 3}, "transformer.h.0.ln_p1.weight"),
    ],
)
def test_every_feature_needs_its_weights(keys: dict[str, Any], name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"missing .*{name}"):
        load_sparse_gpt(write(tmp_path, TINY | keys, random_weights(TINY)))
    more = random_weights(TINY | keys)
    with pytest.raises(ValueError, match=f"unexpected .*{name}"):
        load_sparse_gpt(write(tmp_path, TINY, more))


def test_a_wrong_shape_is_named_with_what_was_expected(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["transformer.h.0.attn.c_attn.weight"] = torch.zeros(36, 13)
    message = r"c_attn.weight has shape \(36, 13\), expected \(36, 12\)"
    with pytest.raises(ValueError, match=message):
        load_sparse_gpt(write(tmp_path, TINY, weights))


def test_a_tied_pair_that_differs(tmp_path: Path) -> None:
    config = TINY | {"tied_unembed": True}
    weights = random_weights(config)
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    with pytest.raises(ValueError, match=r"lm_head.weight and transformer.wte.weight differ"):
        load_sparse_gpt(write(tmp_path, config, weights))


class _RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["SPARSE_LENS_TEST_FOLDER"],)


def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    monkeypatch.setenv("SPARSE_LENS_TEST_FOLDER", str(made))
    weights = random_weights(TINY) | {"code": _RunsCode()}
    with pytest.raises(ValueError, match=r"would\s+run code .* never done") as error:
        load_sparse_gpt(write(tmp_path, TINY, weights))
    assert not made.exists()
    assert "weights_only=False" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip", b"\x80\x02}q\x00."[:4]]
)
@pytest.mark.parametrize("name", ["final_model.pt", "model.safetensors"])
def test_damaged_weights(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is no "):
        load_sparse_gpt(tmp_path)


def test_weights_that_stop_short(tmp_path: Path) -> None:
    write(tmp_path, TINY, random_weights(TINY))
    whole = (tmp_path / "final_model.pt").read_bytes()
    (tmp_path / "final_model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"final_model.pt is no .*damaged"):
        load_sparse_gpt(tmp_path)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([torch.zeros(1)], "must hold a dictionary of tensors"),
        ({"model": {"w": torch.zeros(1)}}, "must hold a dictionary of tensors"),
        ({"w": torch.zeros(1, dtype=torch.int8)}, "must hold floating-point weights, not w"),
    ],
)
def test_other_things_in_a_pt_file(held: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_sparse_gpt(write(tmp_path, TINY, held))


def test_incomplete_directories(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config.json or beeg_config.json"):
        load_sparse_gpt(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    with pytest.raises(FileNotFoundError, match=r"holds no model.safetensors or final_model.pt"):
        load_sparse_gpt(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor a model of that name"):
        load_sparse_gpt(tmp_path / "nowhere")


def test_a_refused_key_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, TINY | {"use_tied_aux_matrix": True}, random_weights(TINY))
    with pytest.raises(ValueError, match=r"beeg_config.json: config key 'use_tied_aux_matrix'"):
        load_sparse_gpt(path)


@pytest.mark.parametrize("device", ["cuda:77", "gpu"])
def test_a_device_that_is_not_there_is_named(device: str, tmp_path: Path) -> None:
    folder = save_sparse_gpt(tiny(), tmp_path)
    with pytest.raises(ValueError, match=f"no device '{device}' can be used here: [A-Z]"):
        load_sparse_gpt(folder, device=device)


def test_loading_draws_no_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, TINY, random_weights(TINY))
    before = torch.random.get_rng_state()
    monkeypatch.setattr(HookedSparseGPT, "init_weights", lambda *args: pytest.fail("drawn"))
    load_sparse_gpt(path)
    assert torch.equal(torch.random.get_rng_state(), before)
