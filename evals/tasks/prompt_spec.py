"""A task whose prompts are made by a function of a template, such as those on English text."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.splits import Splits

Fill = Callable[[random.Random, str], tuple[Contrast, ...]]
"""Makes prompts of a template, with names and the like drawn at random."""


@dataclass(frozen=True)
class PromptSpec(Spec):
    """A choice of the next token among sets of them, for which pairs that swap are too narrow.

    The corrupted prompt need not be the clean one of another row, and answers and distractors may
    be sets of any size.
    """

    name: str

    question: str
    """What the model has to tell apart, in one line."""

    statements: Splits
    """Templates, in any form that `fill` reads, for each split."""

    fill: Fill

    shared_candidates: tuple[str, ...] = ()
    """Answers and distractors that all prompts share."""

    rows_per_draw: int = 1
    """Prompts that one call of `fill` makes."""

    deciding_tokens: int = 1
    """At most so many tokens of a prompt differ from its corrupted version."""

    drawn_as: str | None = None
    """Tasks of the same one draw the same; None for its own name."""

    # Not annotated: not fields.
    min_tokens = 4
    max_tokens = 256

    @property
    def candidates(self) -> tuple[str, ...]:
        """Answers and distractors that all prompts share."""
        return self.shared_candidates

    @property
    def seed_name(self) -> str:
        """What the draws depend on, besides the seed and the split."""
        return self.drawn_as or self.name

    def templates(self, split: str) -> tuple[str, ...]:
        """Those of a split."""
        return self.statements.of(split)

    def draw_rows(self, rng: random.Random, split: str) -> tuple[Contrast, ...]:
        """Prompts of a template of the split."""
        return self.fill(rng, rng.choice(self.statements.of(split)))
