"""The questions that papers ask of a circuit, and those that their critics ask.

Each is a function of a bound ablation, a circuit and prompts, which are held-out ones where the
answer is reported. The answers hold one value for each example, with means and bootstrap intervals.
`sparse_lens.evals.metrics.measure` answers the first question, how faithful a circuit is.
"""

from sparse_lens.evals.questions.asked import QUESTIONS, Questions
from sparse_lens.evals.questions.draws import Draws
from sparse_lens.evals.questions.faithfulness import kl_over_positions, recovered_fraction
from sparse_lens.evals.questions.knockouts import Completeness, completeness
from sparse_lens.evals.questions.other_ablations import partly_ablated, resampled
from sparse_lens.evals.questions.other_prompts import Transfer, transfer
from sparse_lens.evals.questions.other_tasks import transfer_table
from sparse_lens.evals.questions.resampled_prompts import PromptStability, prompt_stability
from sparse_lens.evals.questions.single_nodes import Minimality, minimality
from sparse_lens.evals.questions.without_circuit import Necessity, necessity

__all__ = [
    "QUESTIONS",
    "Completeness",
    "Draws",
    "Minimality",
    "Necessity",
    "PromptStability",
    "Questions",
    "Transfer",
    "completeness",
    "kl_over_positions",
    "minimality",
    "necessity",
    "partly_ablated",
    "prompt_stability",
    "recovered_fraction",
    "resampled",
    "transfer",
    "transfer_table",
]
