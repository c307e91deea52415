"""Made-up records of a comparison, with numbers that are easy to follow."""

from __future__ import annotations

from typing import Any

from sparse_lens.evals.questions import FrozenNorms, Minimality, RandomSubsets, ResampledValues
from sparse_lens.evals.records import Measurement, MeasurementKind, Record
from sparse_lens.identity import describe

MODELS = {"sparse<1>": 0.1, "dense&co": 1.0}
LOSSES = {"sparse<1>": 3.154, "dense&co": 3.133}
TASKS = ("for_while", "my <i>task</i>")
METHODS = ("attribution-patching", "node-pruning", "random")
BUDGETS = (3, 30, 300)
FULL_EDGES = 5000


def edges_of(model: str, task: str, method: str, seed: int) -> int:
    """The number of edges, different for each job and ten times as large in the dense model."""
    return (40 + 7 * TASKS.index(task) + 3 * METHODS.index(method) + seed) * (
        1 if model == "sparse<1>" else 10
    )


def measurement(kind: MeasurementKind, edges: int, loss: float, **more: Any) -> Measurement:
    values = {
        name: loss * factor
        for factor, name in enumerate(
            ("kl", "logit_difference", "necessity_kl", "necessity_logit_difference"), start=2
        )
    }
    shares = dict.fromkeys(
        ("accuracy", "exact_match", "necessity_accuracy", "necessity_exact_match"), 0.975
    )
    return Measurement(
        kind=kind,
        n_nodes=edges // 2,
        n_edges=edges,
        connected_nodes=edges // 3,
        connected_edges=edges - 1 if edges else 0,
        task_loss=loss,
        necessity_task_loss=loss + 3,
        **values,
        **shares,
        **more,
    )


def record(model: str, task: str, method: str, seed: int, **changes: Any) -> Record:
    edges = edges_of(model, task, method, seed)
    met = method != "random"
    kept = edges if met else FULL_EDGES
    measurements = (
        measurement("chosen", kept, 0.14 + seed / 100),
        measurement("full", FULL_EDGES, 0.01),
        measurement("empty", 0, 2.5),
        measurement("random", edges, 1.5, draw=0),
        measurement("random", edges, 1.7, draw=1),
        *(measurement("budget", n, 10 / n + seed, requested_edges=n) for n in BUDGETS),
    )
    values: dict[str, Any] = {
        "job_id": f"{model}-{task}-{method}-{seed}",
        "status": "done",
        "model": model,
        "model_hash": f"hash of {model}",
        "nonzero_fraction": MODELS[model],
        "n_parameters": 1000,
        "pretraining_loss": LOSSES[model],
        "task": task,
        "task_seed": 0,
        "method": method,
        "method_class": f"made.up.{method}",
        "hyperparameters": {"n_steps": 7, "objective": {"type": "<Loss>"}},
        "graph": "channel",
        "graph_fingerprint": "0",
        "graph_nodes": 700,
        "graph_edges": FULL_EDGES,
        "ablation": {"type": "MeanAblation", "means": None},
        "seed": seed,
        "target_loss": 0.145,
        "n_train": 12,
        "n_validation": 14,
        "n_held_out": 16,
        "full_validation_loss": 0.01,
        "full_validation_accuracy": 0.975,
        "met_on_validation": met,
        "met_on_held_out": met and seed == 0,
        "circuit": f"circuits/{seed}.safetensors",
        "seconds": 2.0 + seed,
        "forward_passes": 30,
        "device": "cpu",
        "versions": {"sparse-lens": "0"},
        "measurements": measurements,
    }
    return Record(**(values | changes))


QUESTIONS = {
    "resample": ResampledValues(),
    "frozen-norms": FrozenNorms(),
    "subsets": RandomSubsets(draws=3),
    "minimality": Minimality(dispensable_below=0.02),
}


def questioned(model: str, task: str, method: str, seed: int) -> Record:
    """A record with answers to the default questions on the chosen circuit."""
    return record(
        model, task, method, seed,
        questions=describe(QUESTIONS),
        answers={
            "resample": {"task_loss": [0.3, 0.5]},
            "frozen-norms": {"task_loss": 0.6 + seed},
            "subsets": {"task_loss": [0.1, 0.2, 0.3]},
            "minimality": {"removed_nodes": 8, "dispensable_share": 0.25 + seed / 2},
        },
        columns={name: question.columns for name, question in QUESTIONS.items()},
    )  # fmt: skip


def records(n_seeds: int = 2) -> tuple[Record, ...]:
    """The records of all jobs, and of one that failed."""
    done = tuple(
        record(model, task, method, seed)
        for model in MODELS
        for task in TASKS
        for method in METHODS
        for seed in range(n_seeds)
    )
    error = "Traceback (most recent call last):\nValueError: <script>alert(1)</script>"
    failed = record(
        "dense&co", "for_while", "node-pruning", 9, status="failed", error=error, measurements=()
    )
    return (*done, failed)
