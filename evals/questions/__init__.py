"""The questions that papers ask of a circuit, and those that their critics ask.

Each file has one question twice: as a function of a bound ablation, a circuit and prompts, for
scripts, with a value for each example, means and bootstrap intervals; and as a frozen dataclass
that a comparison asks of every circuit that met its target, such as
`compare(..., questions=[Minimality(nodes=32)])`. `sparse_lens.evals.metrics.measure` answers the
first question, how faithful a circuit is.

A new question takes one file, with a subclass of `sparse_lens.evals.question.Question`, and one
line: its entry point in the group `sparse_lens.questions`, in this package's pyproject.toml or in
another package's. The command line, the records and the report need nothing else.
"""

from sparse_lens.evals.draws import Draws
from sparse_lens.evals.growing_interchange import InterchangeStep, growing_interchange
from sparse_lens.evals.questions.adversarial_subset import (
    AdversarialSubset,
    AdversaryResult,
    Ascent,
    adversarial_subset,
)
from sparse_lens.evals.questions.attention_agreement import (
    AttentionAgreement,
    PatternAgreement,
    pattern_agreement,
)
from sparse_lens.evals.questions.completeness import (
    Completeness,
    CompletenessResult,
    completeness,
)
from sparse_lens.evals.questions.families import Families, Family, disjoint_circuits, family
from sparse_lens.evals.questions.frozen_norms import FrozenNorms
from sparse_lens.evals.questions.inside_agreement import (
    InsideAgreement,
    ValueAgreement,
    answer_positions,
    computed_nodes,
    value_agreements,
)
from sparse_lens.evals.questions.kl_over_positions import (
    KLOverPositions,
    kl_over_positions,
    real_positions,
)
from sparse_lens.evals.questions.minimality import Minimality, MinimalityResult, minimality
from sparse_lens.evals.questions.necessity import Necessity, NecessityResult, necessity
from sparse_lens.evals.questions.prompt_stability import (
    PromptStability,
    PromptStabilityResult,
    prompt_stability,
)
from sparse_lens.evals.questions.random_subsets import RandomSubsets, partly_ablated
from sparse_lens.evals.questions.recovered_fraction import RecoveredFraction, recovered_fraction
from sparse_lens.evals.questions.resampled_values import ResampledValues, resampled
from sparse_lens.evals.questions.strict_edges import StrictEdges
from sparse_lens.evals.questions.transfer import Transfer, TransferResult, transfer
from sparse_lens.evals.questions.weights_ablated import WeightsAblated, weights_ablated
from sparse_lens.evals.transfer_table import transfer_table
from sparse_lens.parts import by_its_edges

DEFAULT_QUESTIONS = (ResampledValues(), FrozenNorms(), RandomSubsets(), Minimality())
"""The questions of a comparison by default; the others take more time."""

__all__ = [
    "DEFAULT_QUESTIONS",
    "AdversarialSubset",
    "AdversaryResult",
    "Ascent",
    "AttentionAgreement",
    "Completeness",
    "CompletenessResult",
    "Draws",
    "Families",
    "Family",
    "FrozenNorms",
    "InsideAgreement",
    "InterchangeStep",
    "KLOverPositions",
    "Minimality",
    "MinimalityResult",
    "Necessity",
    "NecessityResult",
    "PatternAgreement",
    "PromptStability",
    "PromptStabilityResult",
    "RandomSubsets",
    "RecoveredFraction",
    "ResampledValues",
    "StrictEdges",
    "Transfer",
    "TransferResult",
    "ValueAgreement",
    "WeightsAblated",
    "adversarial_subset",
    "answer_positions",
    "by_its_edges",
    "completeness",
    "computed_nodes",
    "disjoint_circuits",
    "family",
    "growing_interchange",
    "kl_over_positions",
    "minimality",
    "necessity",
    "partly_ablated",
    "pattern_agreement",
    "prompt_stability",
    "real_positions",
    "recovered_fraction",
    "resampled",
    "transfer",
    "transfer_table",
    "value_agreements",
    "weights_ablated",
]
