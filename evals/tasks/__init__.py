"""Tasks: choices of the next token in Python code and English, built for a given tokenizer."""

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.building import build_task
from sparse_lens.evals.tasks.cards import TaskCard, card, validate
from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.ngrams import NGramModel
from sparse_lens.evals.tasks.prompt_spec import PromptSpec
from sparse_lens.evals.tasks.registry import GROUPS, build, names, spec
from sparse_lens.evals.tasks.shortcuts import constant_answer_accuracy, shared_suffixes
from sparse_lens.evals.tasks.splits import (
    FUNCTION_OPENINGS,
    IDENTIFIERS,
    MODULE_OPENINGS,
    Splits,
    SplitSizes,
)
from sparse_lens.evals.tasks.task_spec import TaskSpec
from sparse_lens.evals.tasks.template import Pair

__all__ = [
    "FUNCTION_OPENINGS",
    "GROUPS",
    "IDENTIFIERS",
    "MODULE_OPENINGS",
    "Contrast",
    "NGramModel",
    "Pair",
    "PromptSpec",
    "Spec",
    "SplitSizes",
    "Splits",
    "TaskCard",
    "TaskSpec",
    "build",
    "build_task",
    "card",
    "constant_answer_accuracy",
    "names",
    "shared_suffixes",
    "spec",
    "validate",
]
