"""What every task has, however its prompts are written down."""

import random
from abc import ABC, abstractmethod

from sparse_lens.evals.tasks.contrast import Contrast


class Spec(ABC):
    """A question to a language model, with prompts as text that any tokenizer may try to carry."""

    name: str

    question: str
    """What the model has to tell apart, in one line."""

    deciding_tokens: int
    """At most so many tokens of a prompt differ from its corrupted version."""

    rows_per_draw: int
    """Prompts that are drawn together, and kept or left together."""

    min_tokens: int
    """Of a prompt, without a token to begin with."""

    max_tokens: int

    @property
    @abstractmethod
    def candidates(self) -> tuple[str, ...]:
        """Answers and distractors that all prompts share; none where they depend on the prompt."""

    @property
    def seed_name(self) -> str:
        """Tasks of the same one draw the same, so that they ask the same of other prompts."""
        return self.name

    @abstractmethod
    def templates(self, split: str) -> tuple[str, ...]:
        """Those of a split; no template is in two."""

    @abstractmethod
    def draw_rows(self, rng: random.Random, split: str) -> tuple[Contrast, ...]:
        """Some prompts, as many as `rows_per_draw`, with names and the like drawn at random."""
