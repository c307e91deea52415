"""What each task asks, with an example; and which tasks a tokenizer can carry."""

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sparse_lens.evals.tasks.registry import build, names, spec
from sparse_lens.evals.tasks.splits import SPLITS
from sparse_lens.evals.tasks.task_spec import TaskSpec
from sparse_lens.evals.tasks.template import Pair


@dataclass(frozen=True)
class TaskCard:
    """A task for people to read."""

    name: str
    question: str
    """What the model has to tell apart."""

    example: Pair
    """A pair of prompts, as text, with the answer to either."""

    n_templates: dict[str, int]
    """By split: openings times statements; no template is in two splits."""

    answers_differ: bool
    """Whether the two answers are other tokens in each pair, such as the names in it."""


def card(task: str | TaskSpec, *, seed: int = 0) -> TaskCard:
    """The card of a task of ours by name, or of one of your own.

    Args:
        seed: of the example, a pair of the train split.

    Raises:
        ValueError: for a name that no task has.
    """
    found = spec(task) if isinstance(task, str) else task
    return TaskCard(
        name=found.name,
        question=found.question,
        example=found.draw(random.Random(f"{seed}/{found.name}/card"), "train"),
        n_templates={split: len(found.templates(split)) for split in SPLITS},
        answers_differ="$" in "".join(found.answers),
    )


def validate(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, str | None]:
    """By task: None where prompts in this tokenizer's tokens can be made, else why they cannot.

    Each task is built at its usual size.
    """
    problems: dict[str, str | None] = {}
    for name in names():
        try:
            build(name, tokenizer)
        except ValueError as problem:
            problems[name] = str(problem)
        else:
            problems[name] = None
    return problems
