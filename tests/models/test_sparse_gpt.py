"""The forward pass against a slow implementation of the released architecture, and fixtures."""

import json
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from sparse_lens.models.checkpoint import load_sparse_gpt
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from tests.models.reference_gpt import (
    HARMLESS,
    PLACES,
    Reference,
    hook_name,
    random_config,
    random_weights,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
FIXTURES = ["sparse_sink_bigram", "sweep_like_no_qk_topk", "dense_layernorm_tied", "cat_pos_emb"]


def write_released(folder: Path, config: dict, weights: dict[str, Tensor]) -> Path:
    """A checkpoint directory as released models come."""
    (folder / "beeg_config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "final_model.pt")
    return folder


def compare(model: HookedSparseGPT, reference: Reference, tokens: Tensor) -> None:
    """Logits with and without anybody listening, and every activation, agree with the oracle."""
    tolerance = TOLERANCE[model.cfg.dtype]
    with torch.no_grad():
        expected = reference.logits(tokens)
        alone = model(tokens)
        logits, cache = model.run_with_cache(tokens)
    assert (alone - expected).abs().max() < tolerance
    assert (logits - expected).abs().max() < tolerance
    for name, value in reference.activations.items():
        found = cache[hook_name(name, model.cfg.n_layers)]
        assert (found.reshape(value.shape) - value).abs().max() < tolerance, name


def reference_away_from_ties(config: dict, dtype: torch.dtype, tokens: Tensor) -> Reference:
    """One in which rounding does not decide what an AbsTopK keeps."""
    for seed in range(100):
        reference = Reference(config, random_weights(config, seed, dtype))
        reference.logits(tokens)
        if reference.margin > (1e-4 if dtype == torch.float32 else 1e-9):
            return reference
    raise AssertionError("every draw of weights has a tie")


def decorate(config: dict, weights: dict[str, Tensor], seed: int) -> None:
    """What real checkpoints have or lack beside what matters."""
    choose = random.Random(seed)
    config |= {k: v for k, v in HARMLESS.items() if choose.random() < 0.5}
    items = list(config.items())
    choose.shuffle(items)
    config.clear()
    config.update(items)
    if choose.random() < 0.4:
        del weights["final_logits_bias"]
    if config["tied_unembed"] and choose.random() < 0.3:
        del weights[choose.choice(["lm_head.weight", "transformer.wte.weight"])]
    if choose.random() < 0.4:
        for layer in range(config["n_layer"]):
            mask = torch.ones(config["block_size"], config["block_size"]).tril()[None, None]
            weights[f"transformer.h.{layer}.attn.bias"] = mask


@pytest.mark.parametrize("seed", range(120))
def test_random_architectures_agree_with_the_slow_one(seed: int, tmp_path: Path) -> None:
    config = random_config(seed)
    dtype = torch.float32 if seed % 4 == 0 else torch.float64
    tokens = torch.randint(17, (2, 7), generator=torch.Generator().manual_seed(seed))
    reference = reference_away_from_ties(config, dtype, tokens)
    weights = dict(reference.weights)
    written = dict(config)
    decorate(written, weights, seed)
    reference.weights.update(
        {} if "final_logits_bias" in weights else {"final_logits_bias": torch.zeros(17)}
    )
    model = load_sparse_gpt(write_released(tmp_path, written, weights), dtype=dtype)
    compare(model, reference, tokens)


def test_the_random_architectures_cover_every_choice() -> None:
    configs = [random_config(seed) for seed in range(120)]
    for place in PLACES:
        assert any(c["afrac"] and place in c.get("afrac_loctypes", "") for c in configs)
    for key in ("bias", "ln_bias", "rms_norm", "tied_unembed", "sink", "enable_bigram_table"):
        assert {c[key] for c in configs} == {True, False}
    for key in ("activation_type", "residual_activation_type", "d_pos_emb", "afrac"):
        assert len({c[key] for c in configs}) > 1
    assert any(c["sinusoidal_cat_pos_emb"] for c in configs)
    assert any("n_mlp" in c for c in configs)
    assert any("d_head" not in c for c in configs)
    assert any(c.get("d_head") and c["d_head"] * c["n_head"] != c["d_model"] for c in configs)


@pytest.mark.parametrize("place", PLACES)
def test_each_place_of_abs_topk_alone(place: str, tmp_path: Path) -> None:
    config = random_config(3) | {"afrac": 0.3, "afrac_loctypes": place, "d_head": 6}
    tokens = torch.arange(9)[None]
    reference = reference_away_from_ties(config, torch.float64, tokens)
    path = write_released(tmp_path, config, reference.weights)
    compare(load_sparse_gpt(path, dtype=torch.float64), reference, tokens)


@pytest.mark.parametrize("name", FIXTURES)
def test_fixtures(name: str, fixtures: Path) -> None:
    folder = fixtures / "sparse_gpt" / name
    recorded = safetensors.torch.load_file(folder / "reference.safetensors")
    tokens, expected = recorded.pop("tokens"), recorded.pop("logits")
    model = load_sparse_gpt(folder)
    with torch.no_grad():
        alone = model(tokens)
        logits, cache = model.run_with_cache(tokens)
    assert (alone - expected).abs().max() < 1e-5
    assert (logits - expected).abs().max() < 1e-5
    for site, value in recorded.items():
        found = cache[hook_name(site, model.cfg.n_layers)]
        assert (found.reshape(value.shape) - value).abs().max() < 1e-5, site
