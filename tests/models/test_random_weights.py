"""Random twins: the same values in other places, and nothing else changed."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sparse_lens as sl
from sparse_lens.graphs import ChannelGraph
from sparse_lens.identity import model_hash
from sparse_lens.models import zoo
from sparse_lens.models.checkpoint import load_sparse_gpt, save_sparse_gpt
from sparse_lens.models.random_weights import has_random_weights
from tests.graphs.tiny import dense_model, sparse_model

MODELS: dict[str, Callable[[], Any]] = {
    "sparse": lambda: sparse_model(tied_unembed=False, enable_bigram_table=True),
    "dense": dense_model,
    "bfloat16": lambda: dense_model().to(torch.bfloat16),
}
TOKENS = torch.arange(12).reshape(2, 6) % 11


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_same_values_in_the_same_places_in_another_order(make):
    model = make()
    before = copy.deepcopy(model.state_dict())
    twin = sl.random_weights(model)
    moved = 0
    for name, values in before.items():
        assert torch.equal(model.state_dict()[name], values), f"{name} of the original changed"
    for name, parameter in twin.named_parameters():
        original = before[name]
        assert torch.equal(parameter == 0, original == 0), name
        in_order = [
            tensor.detach().float().flatten().sort().values for tensor in (parameter, original)
        ]
        assert torch.equal(*in_order), name
        if original.count_nonzero() > 5:
            moved += 1
            assert not torch.equal(parameter, original), name
    assert moved >= 8
    assert type(twin) is type(model)
    assert twin.cfg.dtype == model.cfg.dtype
    with torch.no_grad():
        assert not torch.allclose(twin(TOKENS), model(TOKENS), atol=0.1)
    if model.cfg.dtype == torch.float32:
        assert ChannelGraph.from_model(twin) == ChannelGraph.from_model(model)


def test_a_permutation_follows_from_the_seed_alone():
    model = sparse_model()
    state = torch.get_rng_state()
    hashes = [model_hash(sl.random_weights(model, seed=seed)) for seed in (0, 1, 0)]
    assert hashes[0] == hashes[2] != hashes[1]
    assert model_hash(model) not in hashes
    assert torch.equal(torch.get_rng_state(), state)
    first, second = (sl.random_weights(model, seed=seed).blocks[0].mlp.W_in for seed in (0, 1))
    assert not torch.equal(first, second)


def test_what_is_not_learned_stays():
    model = sparse_model(tied_unembed=True, d_pos_emb=4, sinusoidal_cat_pos_emb=True, rms_norm=True)
    model.init_weights()
    twin = sl.random_weights(model)
    assert torch.equal(twin.pos_embed.W_pos, model.pos_embed.W_pos)
    assert torch.equal(twin.unembed.W_U, twin.embed.W_E.T)
    assert not torch.equal(twin.embed.W_E, model.embed.W_E)


def test_it_goes_by_the_name_of_the_original(tmp_path: Path):
    save_sparse_gpt(sparse_model(tied_unembed=False), tmp_path / "mine")
    original = load_sparse_gpt(tmp_path / "mine")
    twin = load_sparse_gpt(f"random:{tmp_path / 'mine'}")
    assert model_hash(twin) == model_hash(sl.random_weights(original))
    assert has_random_weights(twin)
    assert not has_random_weights(original)
    assert zoo.resolve("random:py-sparse") == zoo.resolve("py-sparse")
    with pytest.raises(ValueError, match="Did you mean py-sparse"):
        load_sparse_gpt("random:py-spars")
