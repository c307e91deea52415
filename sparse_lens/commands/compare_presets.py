"""Ready-made comparisons of the embedded models."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.baselines.random_scores import RandomScores
from sparse_lens.evals import tasks
from sparse_lens.evals.budgets import EdgeBudgets
from sparse_lens.evals.compare import Comparison
from sparse_lens.evals.harness.nothing_to_find import NothingToFind
from sparse_lens.evals.questions import (
    DEFAULT_QUESTIONS,
    AdversarialSubset,
    AttentionAgreement,
    Completeness,
    Families,
    FrozenNorms,
    InsideAgreement,
    Minimality,
    RandomSubsets,
    ResampledValues,
    StrictEdges,
    WeightsAblated,
)
from sparse_lens.evals.tasks import SplitSizes
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import KLDivergence
from sparse_lens.target import FAITHFUL, ROBUST

# Answers of these are several tokens in the vocabularies of the embedded models.
_TOO_LONG = ("final_kwarg", "enumerate_range")

# On validation prompts the largest k_coef of the default sweep gave the smallest circuit for every
# task and model here under mean ablation; one run instead of three, and fewer held-out prompts than
# usual, keep this under four minutes on two cores with its controls.
QUICK = Comparison(
    models=("py-sparse", "py-dense"),
    tasks=("bracket_brace", "for_while", "lambda_func"),
    methods=(
        NodePruning(k_coef=1e-2),
        AttributionPatching(),
    ),
    splits=SplitSizes(n_train=128, n_validation=64, n_held_out=64),
    budgets=EdgeBudgets(fractions=(0.1, 0.3, 1.0), counts=(3, 10, 30, 100, 300, 1000, 3000)),
    random_draws=1,
    questions=(
        ResampledValues(draws=1),
        FrozenNorms(),
        RandomSubsets(draws=4),
        StrictEdges(),
        Minimality(nodes=8),
        InsideAgreement(),
        AttentionAgreement(),
        WeightsAblated(),
    ),
    controls=NothingToFind(),
)

FULL = Comparison(
    models=("py-sparse", "py-dense", "py-dense-topk"),
    tasks=tuple(name for name in tasks.names() if name not in _TOO_LONG),
    methods={
        "node-pruning": NodePruning(),
        # At a higher price than these, gates of a circuit that is like the model's output close.
        "node-pruning-faithful": NodePruning(
            objective=KLDivergence(), target=FAITHFUL, k_coef=(3e-4, 1e-3, 3e-3)
        ),
        "node-pruning-robust": NodePruning(target=ROBUST),
        "attribution-patching": AttributionPatching(),
        "random": RandomScores(),
    },
    objective=None,
    target=None,
    seeds=3,
    questions=(
        *DEFAULT_QUESTIONS,
        StrictEdges(),
        AdversarialSubset(),
        Completeness(),
        InsideAgreement(),
        AttentionAgreement(),
        WeightsAblated(),
        Families(),
    ),
    controls=NothingToFind(random_models=3, random_tasks=2),
)

PRESETS: Mapping[str, Comparison] = MappingProxyType({"quick": QUICK, "full": FULL})
