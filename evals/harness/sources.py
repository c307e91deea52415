"""Where a job gets its model and its task from: small values that travel to other processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_lens import HookedTransformer

from sparse_lens.evals import tasks
from sparse_lens.evals.tasks.splits import USUAL_SIZES, SplitSizes
from sparse_lens.graphs.base import Graph
from sparse_lens.identity import (
    json_hash,
    model_hash,
    task_hash,
    tokenizer_hash,
)
from sparse_lens.models import zoo
from sparse_lens.models.checkpoint import load_sparse_gpt
from sparse_lens.models.random_weights import has_random_weights, random_weights
from sparse_lens.patching import check_prompts
from sparse_lens.task import SPLITS, Task

GraphOf = Callable[[HookedTransformer], Graph]
"""Makes a model's graph: `ChannelGraph.from_model`, `ComponentGraph.from_model`, or your own."""


@dataclass(frozen=True, eq=False)
class ModelSource:
    """A model of a comparison, and what its records say of it."""

    label: str
    origin: str | HookedTransformer
    """Name, folder, or the model itself."""

    device: str | None
    """For models given by name."""

    hash: str
    nonzero_fraction: float
    n_parameters: int
    pretraining_loss: float | None
    """Nats a token on held-out pretraining text; None where the model's folder does not say."""

    training_hash: str | None
    """Hash of the settings of its training, but for the seed; None likewise."""

    tokenizer_hash: str | None
    dtype: str
    graph_of: GraphOf
    graph_kind: str
    graph_fingerprint: str
    graph_nodes: int
    graph_edges: int
    is_random: bool
    """Whether its weights are at random, so that there is no circuit to find."""

    @classmethod
    def examine(
        cls, origin: str | Path | HookedTransformer, graph_of: GraphOf, *, device: str | None
    ) -> ModelSource:
        """Load the model once, to know which it is.

        Raises:
            ValueError: when there is no such model, or it has no such graph.
        """
        model = _load(origin, device)
        graph = graph_of(model)
        digest = model_hash(model)
        is_random = has_random_weights(model)
        log: Mapping[str, Any] = {}
        if isinstance(origin, (str, Path)):
            origin = str(origin)
            name = Path(origin.removeprefix(zoo.RANDOM)).name
            label = f"{zoo.RANDOM}{name}" if is_random else name
            log = {} if is_random else _training_log(zoo.resolve(origin))
        else:
            label = f"{origin.cfg.model_name}-{digest[:8]}"
        return cls(
            label=label,
            origin=origin,
            device=device,
            hash=digest,
            nonzero_fraction=nonzero_fraction(model),
            n_parameters=sum(parameter.numel() for parameter in model.parameters()),
            pretraining_loss=_pretraining_loss(log),
            training_hash=json_hash(log["config"]) if "config" in log else None,
            tokenizer_hash=tokenizer_hash(model.tokenizer),
            dtype=str(model.cfg.dtype).removeprefix("torch."),
            graph_of=graph_of,
            graph_kind=graph.kind,
            graph_fingerprint=graph.fingerprint,
            graph_nodes=graph.n_nodes,
            graph_edges=graph.n_edges,
            is_random=is_random,
        )

    def at_random(self) -> ModelSource:
        """The model with its weights at random, as a model of its own."""
        if isinstance(self.origin, str):
            twin: str | HookedTransformer = f"{zoo.RANDOM}{self.origin}"
        else:
            twin = random_weights(self.origin)
        return ModelSource.examine(twin, self.graph_of, device=self.device)

    def load(self) -> HookedTransformer:
        """The model."""
        return _load(self.origin, self.device)


@dataclass(frozen=True, eq=False)
class TaskSource:
    """A task of a comparison: one of ours by name, or one that was passed."""

    name: str
    task: Task | None = None
    sizes: SplitSizes = USUAL_SIZES
    seed: int = 0
    is_control: bool = False
    """Whether it has no rule, so that there is no circuit to find."""

    @classmethod
    def of(
        cls, task: str | Task, sizes: SplitSizes, seed: int, *, is_control: bool = False
    ) -> TaskSource:
        """Of a name or a task.

        Args:
            is_control: whether the task has no rule; known of those that go by names.

        Raises:
            ValueError: when no task has that name, or a task lacks a split.
        """
        if isinstance(task, Task):
            for split in ("validation", "held_out"):
                task.split(split)
            return cls(task.name, task, is_control=is_control)
        tasks.spec(task)
        return cls(task, None, sizes, seed, is_control or task in tasks.names("control"))

    def load(self, model: HookedTransformer) -> Task:
        """The task in a model's tokens, begun as the model's own `to_tokens` begins them.

        Raises:
            ValueError: when the model has no tokenizer, or one that cannot carry the task, or lacks
                tokens of a task that was passed.
        """
        if self.task is not None:
            for split in SPLITS:
                check_prompts(model, self.task.split(split))
            return self.task
        if model.tokenizer is None:
            raise ValueError(
                f"task {self.name!r} is written as text and the model has no tokenizer: pass a "
                "model that has one, or the task as sl.Task(...) in the model's tokens."
            )
        sizes: dict[str, Any] = vars(self.sizes)
        return tasks.build(
            self.name,
            model.tokenizer,  # type: ignore[arg-type]
            seed=self.seed,
            prepend_bos=bool(model.cfg.default_prepend_bos),
            **sizes,
        )

    def identity(self, tokenizer: str | None) -> dict[str, Any]:
        """What the prompts depend on, as JSON."""
        if self.task is not None:
            return {"name": self.name, "hash": task_hash(self.task)}
        sizes = vars(self.sizes)
        return {"name": self.name, "seed": self.seed, "tokenizer": tokenizer, **sizes}


def _training_log(folder: Path) -> Mapping[str, Any]:
    """A folder's `training.json`, in which the seed is part of no field but `command`."""
    try:
        log = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return log if isinstance(log, dict) else {}  # anyone's folder may hold a file of that name


def _pretraining_loss(log: Mapping[str, Any]) -> float | None:
    """The final loss, on real code rather than on the grammar's."""
    try:
        return float(log["final"]["stdlib_loss"])
    except (ValueError, LookupError, TypeError):
        return None


def _load(origin: str | Path | HookedTransformer, device: str | None) -> HookedTransformer:
    if isinstance(origin, (str, Path)):
        return load_sparse_gpt(origin, device=device)
    return origin


def nonzero_fraction(model: HookedTransformer) -> float:
    """Nonzero entries of all weight matrices over all their entries.

    Biases, gains and buffers are not counted.
    """
    total = nonzero = 0
    for name, parameter in model.named_parameters():
        if name.rsplit(".", 1)[-1].startswith("W_"):
            total += parameter.numel()
            nonzero += int(parameter.detach().count_nonzero())
    return nonzero / total if total else 1.0
