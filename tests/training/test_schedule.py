"""The annealed fraction and the sharkfin learning rate."""

import pytest

from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.training.config import TrainingConfig
from sparse_lens.training.schedule import learning_rate, nonzero_fraction

MODEL = SparseGPTConfig(
    block_size=8, vocab_size=16, n_layer=1, n_head=1, d_model=8, tied_unembed=False
)


def config(**options):
    return TrainingConfig(MODEL, n_steps=1000, context=8, **options)


def test_the_fraction_falls_linearly_over_the_first_half():
    cfg = config(weight_fraction=0.1)
    assert nonzero_fraction(cfg, 0, 0.1) == 1.0
    assert nonzero_fraction(cfg, 250, 0.1) == pytest.approx(0.55)
    assert nonzero_fraction(cfg, 500, 0.1) == pytest.approx(0.1)
    assert nonzero_fraction(cfg, 999, 0.1) == pytest.approx(0.1)


def test_a_dense_rate_warms_up_and_decays_to_nothing():
    cfg = config(learning_rate=1.0, warmup_fraction=0.01)
    assert learning_rate(cfg, 0) == pytest.approx(0.1)
    assert learning_rate(cfg, 9) == pytest.approx(1.0)
    assert learning_rate(cfg, 505) == pytest.approx(0.5)
    assert learning_rate(cfg, 999) == pytest.approx(1 / 990)


def test_the_sharkfin_is_relative_to_the_target():
    """1 / sqrt(L0(t)), relative to the target: sqrt(0.25) while dense, 1 when annealed."""
    plain = config(learning_rate=1.0, weight_fraction=0.25, sharkfin=False)
    fin = config(learning_rate=1.0, weight_fraction=0.25)
    assert learning_rate(fin, 10) / learning_rate(plain, 10) == pytest.approx(0.5, rel=0.02)
    assert learning_rate(fin, 700) == learning_rate(plain, 700)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_fraction": 0.0}, "weight_fraction"),
        ({"embedding_fraction": 1.5}, "embedding_fraction"),
        ({"gradient": "squash"}, "squash"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_a_context_longer_than_the_model_is_refused():
    with pytest.raises(ValueError, match="block_size"):
        TrainingConfig(MODEL, n_steps=1, context=9)
