"""Training of a preset: text, tokenizer, model directory, and a record of the run."""

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import torch

from sparse_lens.atomic import write_atomically
from sparse_lens.models.checkpoint import save_sparse_gpt
from sparse_lens.models.sparse_gpt import HookedSparseGPT, check_device
from sparse_lens.training.config import TrainingConfig
from sparse_lens.training.corpus import StandardLibrary, build_corpus, train_tokenizer
from sparse_lens.training.preset_changes import UNCHANGED, Changes
from sparse_lens.training.presets import PRESETS, Preset
from sparse_lens.training.trainer import Progress, Trainer

CHECKPOINT = "checkpoint.pt"
RECORD = "training.json"


def train_preset(
    name: str,
    out: Path,
    *,
    device: torch.device | str | None = None,
    seed: int = 0,
    changes: Changes = UNCHANGED,
    progress: Progress | None = None,
) -> HookedSparseGPT:
    """Train a preset and write the model, its tokenizer, reference tokens and training record.

    An interrupted run continues exactly from its last checkpoint in `out`. The training
    record is the last file that is written; then the checkpoint is deleted.

    Args:
        changes: of the preset's sizes, for sweeps.

    Raises:
        ValueError: for an unknown preset, changes that the preset cannot take, a device that is not
            there, or a folder with a model, or with a checkpoint of another run.
    """
    if name not in PRESETS:
        raise ValueError(f"no training preset {name!r}; there are {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    cfg = changes.of(preset.training)
    check_device(device)
    if (out / RECORD).exists():
        raise ValueError(
            f"{out} holds a model whose training is done ({RECORD} is there): train into another "
            "folder, or remove this one."
        )
    library = StandardLibrary.load()
    tokenizer = train_tokenizer(library, vocab_size=cfg.model.vocab_size)
    corpus = build_corpus(tokenizer, library=library, grammar_share=cfg.grammar_share)
    trainer = Trainer(
        cfg,
        corpus.train,
        {"stdlib": corpus.validation, "grammar": corpus.validation_grammar},
        tokenizer=tokenizer,
        device=device,
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    model = trainer.run(checkpoint=out / CHECKPOINT, progress=progress)
    model.reference_tokens = _reference_tokens(corpus.train, cfg.context, cfg.n_reference_tokens)
    # Half precision halves the files; the rounded model is the model from here on.
    _round_to_half(model)
    save_sparse_gpt(model, out, dtype=torch.float16)
    command = " ".join(["sparse-lens train", name, "--out DIR --seed", str(seed), *changes.flags])
    record = _record(preset, cfg, command, trainer, len(corpus.train))
    write_atomically(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    (out / CHECKPOINT).unlink()
    return model


@torch.no_grad()
def _round_to_half(model: HookedSparseGPT) -> None:
    for parameter in model.parameters():
        parameter.copy_(parameter.half())


def _reference_tokens(train: torch.Tensor, context: int, n_tokens: int) -> torch.Tensor:
    """Windows spread evenly over the training text, `[n, context]`."""
    n = max(1, n_tokens // context)
    starts = torch.linspace(0, len(train) - context, n).long()
    return torch.stack([train[start : start + context] for start in starts.tolist()]).long()


def _record(
    preset: Preset, cfg: TrainingConfig, command: str, trainer: Trainer, tokens: int
) -> dict[str, Any]:
    return {
        "description": preset.description,
        "command": command,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(trainer.device),
        "training_tokens": tokens,
        "steps": trainer.step,
        "nonzero_weights": {
            sparse.name: int(sparse.parameter.count_nonzero()) for sparse in trainer.sparse
        },
        "config": dataclasses.asdict(cfg),
        "final": trainer.validate(max_windows=None),
        "log": trainer.log,
    }
