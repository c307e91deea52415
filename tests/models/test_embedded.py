"""The embedded models are what they are said to be: loss-matched, and able to do tasks."""

import json

import pytest
import torch

from sparse_lens.commands.compare_presets import PRESETS
from sparse_lens.evals import tasks
from sparse_lens.models import zoo
from sparse_lens.models.checkpoint import load_sparse_gpt
from sparse_lens.objectives import TaskLoss, logit_difference
from sparse_lens.patching import answer_logits

SPARSE, DENSE = "py-sparse", ("py-dense", "py-dense-topk")
MODELS = (SPARSE, *DENSE)
FILES = {"config.json", "encoder.json", "model.safetensors", "reference_tokens.safetensors"}


@pytest.fixture(scope="module")
def models():
    return {name: load_sparse_gpt(name, device="cpu") for name in MODELS}


def record(name):
    return json.loads((zoo.resolve(name) / "training.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_everything_that_belongs_to_a_model_is_there(name):
    folder = zoo.resolve(name)
    assert {file.name for file in folder.iterdir()} == {*FILES, "training.json", "vocab.bpe"}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
    assert record(name)["command"].startswith(f"sparse-lens train {name} ")


def test_losses_are_matched():
    """On text of the standard library that none was trained on, after the same data."""
    losses = {name: record(name)["final"]["stdlib_loss"] for name in MODELS}
    for name in DENSE:
        assert abs(losses[name] - losses[SPARSE]) <= 0.05, losses
    assert len({record(name)["steps"] for name in MODELS}) == 1
    assert len({record(name)["training_tokens"] for name in MODELS}) == 1


def test_what_is_recorded_is_what_the_files_hold(models):
    """The weights are as sparse as training says, and the dense ones are dense."""
    for weights in ("attn.W_Q", "attn.W_O", "mlp.W_in", "mlp.W_out"):
        parameter = models[SPARSE].get_parameter(f"blocks.0.{weights}")
        fraction = int(parameter.count_nonzero()) / parameter.numel()
        wanted = record(SPARSE)["config"]["weight_fraction"]
        assert fraction == pytest.approx(wanted, rel=0.02)
        for name in DENSE:
            dense = models[name].get_parameter(f"blocks.0.{weights}")
            assert int(dense.count_nonzero()) > 0.99 * dense.numel()


def test_nothing_but_weight_sparsity_and_size_differs(models):
    sizes = {"d_model", "n_head", "d_head", "d_mlp"}
    configs = {name: models[name].sparse_cfg.to_dict() for name in MODELS}
    for name in DENSE:
        different = {k for k, v in configs[SPARSE].items() if configs[name][k] != v}
        assert different <= (sizes | {"afrac"} if name == "py-dense" else sizes)
    vocabularies = [models[name].tokenizer.get_vocab() for name in MODELS]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


def test_reference_tokens_are_text(models):
    for model in models.values():
        assert model.reference_tokens is not None
        assert model.reference_tokens.numel() >= 20_000
        assert "def" in model.to_string(model.reference_tokens[:20].flatten())


def can_do(model, prompts) -> bool:
    with torch.no_grad():
        logits = answer_logits(model, prompts)
    accuracy = (logit_difference(logits, prompts) > 0).float().mean()
    return float(TaskLoss()(logits, prompts).mean()) <= 0.15 and float(accuracy) >= 0.95


def shared_tasks(models) -> list[str]:
    """Asked in the tokens of one of them, which are those of the others."""
    shared = []
    for name in PRESETS["full"].tasks:
        assert isinstance(name, str)
        task = tasks.build(name, models[SPARSE].tokenizer, n_train=2, n_validation=0)
        if all(can_do(model, task.split("held_out")) for model in models.values()):
            shared.append(name)
    return shared


def test_at_least_eight_tasks_can_be_done_by_all(models):
    shared = shared_tasks(models)
    assert len(shared) >= 8, shared
