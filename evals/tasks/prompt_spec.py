"""Tasks whose prompts a function makes from a template, such as those on English text."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.splits import Splits

Fill = Callable[[random.Random, str], tuple[Contrast, ...]]
"""Makes prompts from a template, with words such as names drawn at random."""


@dataclass(frozen=True)
class PromptSpec(Spec):
    """A choice between sets of next tokens, for tasks that do not fit a `TaskSpec`.

    Unlike there, the corrupted prompt need not be the clean prompt of another row, and answers and
    distractors may be sets of any size.
    """

    name: str

    question: str
    """What the model has to tell apart, in one line."""

    statements: Splits
    """The templates of each split, in any form that `fill` reads."""

    fill: Fill

    shared_candidates: tuple[str, ...] = ()
    """Answers and distractors that all prompts share."""

    rows_per_draw: int = 1
    """Prompts that one call of `fill` makes."""

    deciding_tokens: int = 1
    """The most tokens in which a prompt may differ from its corrupted version."""

    drawn_as: str | None = None
    """The seed name: specs that share it draw alike; None for the spec's own name."""

    # Without annotations these are not fields of the dataclass.
    min_tokens = 4
    max_tokens = 256

    @property
    def candidates(self) -> tuple[str, ...]:
        """Answers and distractors that all prompts share."""
        return self.shared_candidates

    @property
    def seed_name(self) -> str:
        """The name that draws depend on, besides the seed and the split."""
        return self.drawn_as or self.name

    def templates(self, split: str) -> tuple[str, ...]:
        """The templates of a split."""
        return self.statements.of(split)

    def draw_rows(self, rng: random.Random, split: str) -> tuple[Contrast, ...]:
        """The prompts that `fill` makes from a random template of the split."""
        return self.fill(rng, rng.choice(self.statements.of(split)))
