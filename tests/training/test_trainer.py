"""Training: it learns, it is deterministic, and it resumes exactly."""

import pytest
import torch

from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.training.config import TrainingConfig
from sparse_lens.training.trainer import Trainer, treat_gradients

MODEL = SparseGPTConfig(
    block_size=16,
    vocab_size=12,
    n_layer=1,
    n_head=2,
    d_model=16,
    d_head=8,
    rms_norm=True,
    tied_unembed=False,
    afrac=0.5,
)
TEXT = torch.arange(12).repeat(200)  # the next token is always the successor


def trainer(seed=0, **options):
    options = {"n_steps": 60, "batch_size": 8, "context": 16, "learning_rate": 2e-2} | options
    usual = {"eps": 1e-8, "gradient": "clip_norm"}
    cfg = TrainingConfig(MODEL, **(usual | options))
    return Trainer(cfg, TEXT, {"text": TEXT[:200]}, seed=seed, device="cpu")


@pytest.mark.parametrize("weight_fraction", [None, 0.3])
def test_it_learns_a_rule(weight_fraction):
    run = trainer(weight_fraction=weight_fraction)
    before = run.validate()["text_loss"]
    run.run()
    assert run.validate()["text_loss"] < 0.2 < before


def test_the_paper_s_optimiser_learns_too():
    run = trainer(eps=0.1, gradient="rescale", n_steps=120)
    run.run()
    assert run.validate()["text_loss"] < 1.0


def weights_after(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_the_same_seed_gives_the_same_model_and_another_another():
    first, second, other = trainer(), trainer(), trainer(seed=1)
    for run in (first, second, other):
        run.run(until=5)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights_after(first).values(), weights_after(second).values(), strict=True)
    )
    assert not torch.equal(first.model.embed.W_E, other.model.embed.W_E)


def test_a_run_that_was_killed_goes_on_exactly(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    whole = trainer(weight_fraction=0.3)
    whole.run(validate_every=10)

    killed = trainer(weight_fraction=0.3)

    def kill(row, total):
        if row["step"] == 37:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.run(checkpoint=checkpoint, save_every=15, validate_every=10, progress=kill)
    resumed = trainer(weight_fraction=0.3)
    resumed.run(checkpoint=checkpoint, save_every=15, validate_every=10)

    for name, value in weights_after(whole).items():
        assert torch.equal(value, weights_after(resumed)[name]), name
    for name in ("step", "train_loss", "text_loss"):
        assert [row[name] for row in resumed.log] == [row[name] for row in whole.log]


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    trainer().run(until=2, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="another config"):
        trainer(seed=1).run(until=2, checkpoint=checkpoint)


def test_weights_are_sparse_at_the_end():
    run = trainer(weight_fraction=0.25, embedding_fraction=0.5, min_nonzeros=1)
    run.run()
    weight = run.model.blocks[0].mlp.W_in
    assert int(weight.count_nonzero()) == round(0.25 * weight.numel())
    assert int(run.model.embed.W_E.count_nonzero()) == round(0.5 * run.model.embed.W_E.numel())


def gradients(treatment, *values):
    parameters = [torch.nn.Parameter(torch.zeros(len(v))) for v in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    treat_gradients(parameters, treatment)
    return torch.cat([p.grad for p in parameters if p.grad is not None])


def test_gradients_are_rescaled_or_clipped_over_all_parameters():
    small, large = ([0.003, 0.004], [0.0]), ([30.0, 40.0], [0.0])
    rms_of = 1 / 3**0.5
    assert gradients("rescale", *small).pow(2).mean().sqrt() == pytest.approx(1.0, rel=1e-2)
    assert gradients("rescale", *large).pow(2).mean().sqrt() == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(gradients("clip_rms", *small), torch.tensor([0.003, 0.004, 0.0]))
    assert gradients("clip_rms", *large).norm() * rms_of == pytest.approx(1.0, rel=1e-4)
    assert gradients("clip_norm", *large).norm() == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(gradients("none", *large), torch.tensor([30.0, 40.0, 0.0]))


def test_a_text_shorter_than_a_batch_is_refused():
    cfg = TrainingConfig(MODEL, n_steps=1, batch_size=8, context=16)
    with pytest.raises(ValueError, match="fewer than one batch"):
        Trainer(cfg, TEXT[:50], {}, device="cpu").run()
