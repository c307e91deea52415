"""The projection against a slow obvious version, and what training keeps sparse."""

import pytest
import torch

from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.training.config import TrainingConfig
from sparse_lens.training.projection import largest_entries, project, sparse_parameters


def slow_largest_entries(weight, keep, channel_dims, minimum):
    """Forced entries first, channel by channel; then the largest of the rest, one by one."""
    kept = torch.zeros_like(weight, dtype=torch.bool)
    if minimum:
        for channel in torch.cartesian_prod(
            *(torch.arange(weight.shape[d]) for d in channel_dims)
        ).reshape(-1, len(channel_dims)):
            index = [slice(None)] * weight.ndim
            for d, i in zip(channel_dims, channel.tolist(), strict=True):
                index[d] = i
            part = weight[tuple(index)].flatten().abs()
            chosen = torch.zeros_like(part, dtype=torch.bool)
            chosen[part.argsort(descending=True, stable=True)[:minimum]] = True
            kept[tuple(index)] |= chosen.reshape(kept[tuple(index)].shape)
    for flat in weight.abs().flatten().argsort(descending=True, stable=True).tolist():
        if int(kept.sum()) >= keep:
            break
        kept.view(-1)[flat] = True
    return kept


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((8, 12), (1,)), ((8, 12), (0,)), ((3, 8, 4), (0, 2)), ((3, 4, 8), (0, 1)), ((5, 7), ())],
)
@pytest.mark.parametrize("keep", [1, 9, 40, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_slow_version(shape, dims, keep, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(keep), dtype=dtype)
    minimum = 2 if dims else 0
    expected = slow_largest_entries(weight, min(keep, weight.numel()), dims, minimum)
    assert torch.equal(largest_entries(weight, keep, dims, minimum), expected)


def test_ties_keep_exactly_as_many_as_asked():
    assert int(largest_entries(torch.ones(6, 6), 7).sum()) == 7
    assert int(largest_entries(torch.zeros(6, 6), 7).sum()) == 7


def make(**options):
    model = SparseGPTConfig(
        block_size=16, vocab_size=40, n_layer=2, n_head=2, d_model=16, d_head=8, tied_unembed=False
    )
    cfg = TrainingConfig(model, n_steps=100, context=16, **options)
    return HookedSparseGPT(model), cfg


def test_every_matrix_ends_with_its_fraction_and_every_channel_with_its_minimum():
    model, cfg = make(weight_fraction=0.3, embedding_fraction=0.5, bias_fraction=0.25)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    sparse = sparse_parameters(model, cfg)
    project(sparse, cfg, step=100)
    fractions = {s.name: int(s.parameter.count_nonzero()) / s.parameter.numel() for s in sparse}
    assert fractions["blocks.0.attn.W_Q"] == pytest.approx(0.3, abs=0.01)
    assert fractions["blocks.1.mlp.W_out"] == pytest.approx(0.3, abs=0.01)
    assert fractions["embed.W_E"] == pytest.approx(0.5, abs=0.01)
    assert fractions["blocks.0.mlp.b_in"] == pytest.approx(0.25, abs=0.05)
    per_neuron = (model.blocks[0].mlp.W_in != 0).sum(0)
    per_channel = (model.blocks[0].attn.W_O != 0).sum(-1)
    assert int(per_neuron.min()) >= 4
    assert int(per_channel.min()) >= 4


def test_a_dense_run_projects_nothing():
    model, cfg = make()
    assert sparse_parameters(model, cfg) == []


def test_biases_stay_dense_unless_asked_for():
    model, cfg = make(weight_fraction=0.3)
    names = [s.name for s in sparse_parameters(model, cfg)]
    assert not any(name.rsplit(".", 1)[-1].startswith("b") for name in names)
    assert not any("embed" in name for name in names)
