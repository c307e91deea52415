"""A preset in another size."""

import argparse
import inspect
import json
import textwrap
from pathlib import Path
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from sparse_lens.cli import app
from sparse_lens.models.checkpoint import load_sparse_gpt
from sparse_lens.training.corpus import StandardLibrary
from sparse_lens.training.preset_changes import UNCHANGED, Changes
from sparse_lens.training.presets import PRESETS
from sparse_lens.training.stripping import strip_source
from sparse_lens.training.train_preset import CHECKPOINT, RECORD, train_preset


@pytest.mark.parametrize("name", PRESETS)
def test_no_change_is_the_preset(name):
    assert UNCHANGED.of(PRESETS[name].training) == PRESETS[name].training
    assert UNCHANGED.flags == ()


def test_the_width_changes_heads_and_mlp_and_nothing_else():
    before = PRESETS["py-sparse"].training
    after = Changes(channels=128).of(before)
    assert (after.model.d_model, after.model.n_head, after.model.d_mlp) == (128, 8, 512)
    assert after.model.d_head == before.model.d_head
    assert Changes(channels=before.model.d_model).of(after) == before


def test_a_device_that_is_not_there_is_found_before_any_text_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(StandardLibrary, "load", lambda: pytest.fail("text was read"))
    with pytest.raises(ValueError, match="no device 'cuda:77' can be used here"):
        train_preset("tiny", tmp_path, device="cuda:77")


def test_sparsity_and_steps_change_alone():
    before = PRESETS["py-sparse"].training
    after = Changes(n_steps=5, weight_fraction=0.5).of(before)
    assert (after.n_steps, after.weight_fraction) == (5, 0.5)
    after = Changes(embedding_fraction=0.5, layers=3).of(before)
    assert (after.embedding_fraction, after.model.n_layer) == (0.5, 3)
    assert Changes(embedding_fraction=before.embedding_fraction, layers=2).of(after) == before
    after = Changes(n_steps=5, weight_fraction=0.5).of(before)
    assert Changes(n_steps=before.n_steps, weight_fraction=before.weight_fraction).of(after) == (
        before
    )


def test_changes_that_a_preset_cannot_take():
    with pytest.raises(ValueError, match="multiple of the head size 16, got 100"):
        Changes(channels=100).of(PRESETS["py-sparse"].training)
    with pytest.raises(ValueError, match="multiple of the head size 8, got 0"):
        Changes(channels=0).of(PRESETS["py-dense"].training)
    with pytest.raises(ValueError, match="a dense preset has no fraction"):
        Changes(weight_fraction=0.1).of(PRESETS["py-dense"].training)
    with pytest.raises(ValueError, match="a dense preset has no fraction"):
        Changes(embedding_fraction=0.1).of(PRESETS["py-dense"].training)
    with pytest.raises(ValueError, match=r"weight_fraction must lie in \(0, 1\]"):
        Changes(weight_fraction=1.5).of(PRESETS["py-sparse"].training)


def test_the_command_trains_what_its_flags_say_and_records_them(tmp_path, monkeypatch):
    # Two modules in place of the whole library, which takes a minute to read and encode.
    modules = [strip_source(inspect.getsource(module)) for module in (argparse, textwrap)]
    library = StandardLibrary({"argparse.py": modules[0]}, {"textwrap.py": modules[1]})
    monkeypatch.setattr(StandardLibrary, "load", lambda: library)
    out = tmp_path / "model"
    flags = ["--steps", "1", "--channels", "16", "--layers", "1", "--weights", "0.5"]
    flags += ["--embeddings", "0.25"]
    command = ["train", "tiny", "--out", str(out), *flags]

    with monkeypatch.context() as full_disk:  # no record is better than half of one
        full_disk.setattr(Path, "replace", Mock(side_effect=OSError("no space left")))
        assert CliRunner().invoke(app, command).exit_code == 1
    assert not (out / RECORD).exists()
    assert (out / CHECKPOINT).exists()

    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    record = json.loads((out / RECORD).read_text())
    assert record["command"].endswith(" ".join(flags))
    cfg = load_sparse_gpt(out).cfg
    assert (cfg.d_model, cfg.n_heads, cfg.d_mlp) == (16, 2, 64)
    assert cfg.n_layers == 1
    assert record["config"]["weight_fraction"] == 0.5
    assert record["config"]["embedding_fraction"] == 0.25
    assert not (out / CHECKPOINT).exists()

    again = CliRunner().invoke(app, command)  # would train for as long once more
    assert again.exit_code == 2
    assert "holds a model whose training is done" in " ".join(again.output.split())
