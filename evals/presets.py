"""Ready-made comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sparse_lens.evals import tasks
from sparse_lens.evals.budgets import EdgeBudgets
from sparse_lens.evals.questions import Questions
from sparse_lens.evals.tasks import SplitSizes


@dataclass(frozen=True)
class ComparePreset:
    """What `sparse-lens compare` does when no flag says otherwise."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]

    methods: Mapping[str, Mapping[str, Any]]
    """Fields that are not at their defaults, by the method's registered name."""

    graph: str = "channel"
    ablation: str = "mean"
    n_seeds: int = 1
    target_loss: float = 0.15
    splits: SplitSizes = field(default_factory=SplitSizes)
    budgets: EdgeBudgets = field(default_factory=EdgeBudgets)
    random_draws: int = 3
    questions: Questions = field(default_factory=Questions)


# Answers of these are several tokens in the vocabularies of the embedded models.
_TOO_LONG = ("final_kwarg", "enumerate_range")

# With the paper's centres (learning rate 3e-3, k_coef 1e-4) gates need thousands of steps to close.
# These hardly change after 300, in the sparse or the dense model; after 100, circuits of the dense
# one are several times as large, and after 400 no smaller. Nor are they with batches of 32.
QUICK = ComparePreset(
    models=("py-sparse", "py-dense"),
    tasks=("bracket_brace", "for_while", "lambda_func"),
    methods=MappingProxyType(
        {
            "node-pruning": {
                "n_steps": 300,
                "batch_size": 16,
                "learning_rate": 2e-2,
                "k_coef": 1e-3,
            },
            "attribution-patching": {},
        }
    ),
    splits=SplitSizes(n_train=128, n_validation=64, n_held_out=64),
    budgets=EdgeBudgets(fractions=(0.1, 0.3, 1.0), counts=(3, 10, 30, 100, 300, 1000, 3000)),
    random_draws=1,
    questions=Questions(resample_draws=1, subset_draws=4, minimality_nodes=8),
)

FULL = ComparePreset(
    models=("py-sparse", "py-dense", "py-dense-topk"),
    tasks=tuple(name for name in tasks.names() if name not in _TOO_LONG),
    methods=MappingProxyType(
        {
            "node-pruning": {"n_steps": 500, "learning_rate": 1e-2, "k_coef": 1e-3},
            "attribution-patching": {},
            "random": {},
        }
    ),
    n_seeds=3,
)

PRESETS: Mapping[str, ComparePreset] = MappingProxyType({"quick": QUICK, "full": FULL})
