"""Tasks of pairs in Python code, and their prompts as text."""

from collections.abc import Iterator
from typing import Any

from sparse_lens.evals import tasks
from sparse_lens.evals.tasks import TaskSpec
from sparse_lens.task import SPLITS, Prompts

SIZES: dict[str, Any] = {"n_train": 48, "n_validation": 32, "n_held_out": 48}

# Those in English are in test_language_tasks.py.
PAIRED = (*tasks.names("python"), *tasks.names("control"))

VERBS = {"read", "reading", "load"}, {"write", "writing", "save"}
"""What is said of reading and of writing in with_open."""


def spec_named(name: str) -> TaskSpec:
    spec = tasks.spec(name)
    assert isinstance(spec, TaskSpec)
    return spec


def every_prompt(name: str, tokenizer) -> Iterator[tuple[str, str, str]]:
    """The text, the right and the wrong answer of all prompts of a task, split after split."""
    task = tasks.build(name, tokenizer, **SIZES)
    for split in SPLITS:
        prompts = task.split(split)
        for row, text in enumerate(texts(prompts, tokenizer)):
            yield text, *candidates(prompts, row, tokenizer)


def texts(prompts: Prompts, tokenizer) -> list[str]:
    assert prompts.lengths is not None
    rows = zip(prompts.clean.tolist(), prompts.lengths.tolist(), strict=True)
    return [tokenizer.decode(row[:length]) for row, length in rows]


def candidates(prompts: Prompts, row: int, tokenizer) -> tuple[str, str]:
    """The right and the wrong answer."""
    assert prompts.distractors is not None
    return tokenizer.decode([prompts.answers[row]]), tokenizer.decode([prompts.distractors[row]])
