"""What each task asks, with an example; and which tasks a tokenizer can carry."""

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
    """A task for people to read."""

    name: str
    question: str
    """What the model has to tell apart."""

    examples: tuple[Contrast, ...]
    """Prompts that were drawn together, as text, with what they are contrasted with and what
    answers them. In a pair each is the other's corrupted prompt."""

    n_templates: dict[str, int]
    """By split; openings times statements, where prompts have both. None is in two splits."""

    n_prompts: dict[str, int]
    """By split, as the task is built when no other numbers are asked for."""

    answers_differ: bool
    """Whether the answers are other tokens in each prompt, such as the names in it."""


def card(task: str | Spec, *, seed: int = 0) -> TaskCard:
    """The card of a task of ours by name, or of one of your own.

    Args:
        seed: of the example, of the train split.

    Raises:
        ValueError: for a name that no task has.
    """
    found = spec(task) if isinstance(task, str) else task
    return TaskCard(
        name=found.name,
        question=found.question,
        examples=found.draw_rows(random.Random(f"{seed}/{found.name}/card"), "train"),
        n_templates={split: len(found.templates(split)) for split in SPLITS},
        n_prompts={split: getattr(USUAL_SIZES, f"n_{split}") for split in SPLITS},
        answers_differ=not found.candidates,
    )


def validate(
    tokenizer: PreTrainedTokenizerBase | None, group: str = "all"
) -> dict[str, str | None]:
    """By task: None where prompts in this tokenizer's tokens can be made, else why they cannot.

    Each task of the group is built at its usual size.
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
