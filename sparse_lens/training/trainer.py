"""The training loop of sparse and dense models, with a fixed order of data and exact resumption."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.training.config import TrainingConfig
from sparse_lens.training.projection import project, sparse_parameters
from sparse_lens.training.schedule import learning_rate

Progress = Callable[[dict[str, float | int], int], None]
"""Called after each step with its row of the log and the number of steps."""


class Trainer:
    """Weight-sparse pretraining of one model on one stream of tokens.

    The order of the data depends only on the seed and the step, so that a trainer that loads a
    checkpoint continues exactly as the one that wrote it.
    """

    def __init__(
        self,
        cfg: TrainingConfig,
        train: Int[Tensor, " n"],
        validation: dict[str, Int[Tensor, " m"]],
        *,
        tokenizer: Any = None,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        self.cfg = cfg
        self.seed = seed
        self.model = HookedSparseGPT(cfg.model, tokenizer=tokenizer, device=device, seed=seed)
        self.device = torch.device(str(self.model.cfg.device))
        self.windows = _windows(train, cfg.context)
        self.validation = {k: _windows(v, cfg.context) for k, v in validation.items()}
        self.sparse = sparse_parameters(self.model, cfg)
        self.optimizer = _optimizer(self.model, cfg)
        self.step = 0
        self._smoothed = 0.0  # train loss
        self._epoch_order: tuple[int, Tensor] | None = None
        self.log: list[dict[str, float | int]] = []

    def run(
        self,
        *,
        checkpoint: Path | None = None,
        save_every: int = 500,
        validate_every: int = 500,
        until: int | None = None,
        progress: Progress | None = None,
    ) -> HookedSparseGPT:
        """Train to the end (or to step `until`), validating and saving on the way."""
        if checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        started = time.perf_counter()
        last_step = self.cfg.n_steps if until is None else min(until, self.cfg.n_steps)
        while self.step < last_step:
            loss = self._train_step()
            is_first = self._smoothed == 0
            self._smoothed = loss if is_first else 0.98 * self._smoothed + 0.02 * loss
            row: dict[str, float | int] = {"step": self.step, "train_loss": self._smoothed}
            if self.step % validate_every == 0 or self.step == self.cfg.n_steps:
                row |= self.validate()
                row["seconds"] = round(time.perf_counter() - started, 1)
                self.log.append(row)
            if progress is not None:
                progress(row, self.cfg.n_steps)
            if checkpoint is not None and (self.step % save_every == 0 or self.step == last_step):
                self.save(checkpoint)
        return self.model.eval()

    def _train_step(self) -> float:
        self.model.train()
        rate = learning_rate(self.cfg, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss(self._batch(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        treat_gradients(list(self.model.parameters()), self.cfg.gradient)
        self.optimizer.step()
        self.step += 1
        project(self.sparse, self.cfg, self.step)
        return loss.item()

    def _loss(self, windows: Int[Tensor, "batch context_plus_1"]) -> Tensor:
        tokens = windows.to(self.device).long()
        logits = self.model(tokens[:, :-1])  # [batch, context, vocab]
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def _batch(self, step: int) -> Int[Tensor, "batch context_plus_1"]:
        """The windows of a step: a new random order of all windows each epoch."""
        per_epoch = len(self.windows) // self.cfg.batch_size
        if per_epoch == 0:
            raise ValueError(
                f"the training text has {len(self.windows)} windows of {self.cfg.context} tokens, "
                f"fewer than one batch of {self.cfg.batch_size}."
            )
        epoch, index = divmod(step, per_epoch)
        order = self._order(epoch)
        return self.windows[order[index * self.cfg.batch_size :][: self.cfg.batch_size]]

    def _order(self, epoch: int) -> Int[Tensor, " count"]:
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
            self._epoch_order = epoch, torch.randperm(len(self.windows), generator=generator)
        return self._epoch_order[1]

    @torch.no_grad()
    def validate(self, max_windows: int | None = 256) -> dict[str, float]:
        """Mean next-token loss in nats on each validation text, or on evenly spaced windows."""
        self.model.eval()
        losses = {}
        for name, windows in self.validation.items():
            stride = 1 if max_windows is None else max(1, len(windows) // max_windows)
            batches = windows[::stride].split(self.cfg.batch_size)
            total = sum(float(self._loss(batch)) * len(batch) for batch in batches)
            losses[f"{name}_loss"] = total / sum(map(len, batches))
        return losses

    def save(self, path: Path) -> None:
        """Write all state that later steps depend on; the file appears complete or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "log": self.log,
            "smoothed": self._smoothed,
            "identity": self._identity(),
        }
        temporary = path.with_name(f".{path.name}.partial")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of the same run.

        Raises:
            ValueError: when the checkpoint belongs to another config or seed.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != self._identity():
            raise ValueError(
                f"{path} belongs to a run with another config, seed or text; choose another --out "
                "or remove it."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.log = state["step"], state["log"]
        self._smoothed = state["smoothed"]

    def _identity(self) -> str:
        values = asdict(self.cfg) | {"seed": self.seed, "windows": len(self.windows)}
        return json.dumps(values, sort_keys=True, default=str)


def treat_gradients(parameters: list[torch.nn.Parameter], treatment: str) -> None:
    """Rescale or clip gradients in place, by the RMS or norm over all of them."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if treatment == "none" or not gradients:
        return
    norm = torch.nn.utils.get_total_norm(gradients)
    rms = norm / sum(g.numel() for g in gradients) ** 0.5
    if treatment == "rescale":
        factor = 1 / (rms + 1e-5)
    elif treatment == "clip_rms":
        factor = (1 / (rms + 1e-12)).clamp(max=1)
    else:
        factor = (1 / (norm + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factor)


def _optimizer(model: HookedSparseGPT, cfg: TrainingConfig) -> torch.optim.Optimizer:
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in trained if n.rsplit(".", 1)[-1].startswith("W_")]
    vectors = [p for n, p in trained if not n.rsplit(".", 1)[-1].startswith("W_")]
    groups = [
        {"params": matrices, "weight_decay": cfg.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=cfg.learning_rate, betas=cfg.betas, eps=cfg.eps)


def _windows(tokens: Int[Tensor, " n"], context: int) -> Int[Tensor, "count context_plus_1"]:
    """Non-overlapping windows of `context` inputs and, shifted by one, their targets."""
    count = (len(tokens) - 1) // context
    if count == 0:
        raise ValueError(f"a text of {len(tokens)} tokens is shorter than a window of {context}.")
    return tokens[: count * context + 1].unfold(0, context + 1, context)
