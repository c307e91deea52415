"""Descriptions of tasks, with an example; and which tasks can be built with a tokenizer."""

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.registry import build, names, spec
from sparse_lens.evals.tasks.splits import USUAL_SIZES
from sparse_lens.task import SPLITS


@dataclass(frozen=True)
class TaskCard:
    """A description of a task."""

    name: str
    question: str
    """What the model has to tell apart."""

    examples: tuple[Contrast, ...]
    """Prompts of one draw, as text, with their corrupted prompts and answers. In a pair each is
    the corrupted prompt of the other."""

    n_templates: dict[str, int]
    """Number of templates by split: openings times statements, where prompts have both. No
    template is in two splits."""

    n_prompts: dict[str, int]
    """Number of prompts by split, in the default sizes."""

    answers_differ: bool
    """Whether the answers depend on the prompt, such as names in it."""


def card(task: str | Spec, *, seed: int = 0) -> TaskCard:
    """The card of a built-in task by name, or of a spec of your own.

    Args:
        seed: of the examples, which are drawn from the train split.

    Raises:
        ValueError: for a name that no task has.
    """
    task_spec = spec(task) if isinstance(task, str) else task
    rng = random.Random(f"{seed}/{task_spec.name}/card")
    return TaskCard(
        name=task_spec.name,
        question=task_spec.question,
        examples=task_spec.draw_rows(rng, "train"),
        n_templates={split: len(task_spec.templates(split)) for split in SPLITS},
        n_prompts={split: getattr(USUAL_SIZES, f"n_{split}") for split in SPLITS},
        answers_differ=not task_spec.candidates,
    )


def validate(
    tokenizer: PreTrainedTokenizerBase | None, group: str = "all"
) -> dict[str, str | None]:
    """By task of a group None if it can be built with this tokenizer, else the reason why not.

    Each task is built in the default size.
    """
    problems: dict[str, str | None] = {}
    for name in names(group):
        try:
            build(name, tokenizer)
        except ValueError as problem:
            problems[name] = str(problem)
        else:
            problems[name] = None
    return problems
