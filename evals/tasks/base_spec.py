"""The base class of task specs: a task as text, before it is built for a tokenizer."""

import random
from abc import ABC, abstractmethod

from sparse_lens.evals.tasks.contrast import Contrast


class Spec(ABC):
    """A question to a language model, with prompts as text."""

    name: str

    question: str
    """What the model has to tell apart, in one line."""

    deciding_tokens: int
    """The most tokens in which a prompt may differ from its corrupted version."""

    rows_per_draw: int
    """Prompts that are drawn together, and kept or rejected together."""

    min_tokens: int
    """The fewest tokens of a prompt, without a beginning-of-sequence token."""

    max_tokens: int
    """The most tokens of a prompt, counted likewise."""

    @property
    @abstractmethod
    def candidates(self) -> tuple[str, ...]:
        """Answers and distractors that all prompts share; none where they depend on the prompt."""

    @property
    def seed_name(self) -> str:
        """The name that draws depend on: tasks that share it draw the same questions."""
        return self.name

    @abstractmethod
    def templates(self, split: str) -> tuple[str, ...]:
        """The templates of a split; no template is in two splits."""

    @abstractmethod
    def draw_rows(self, rng: random.Random, split: str) -> tuple[Contrast, ...]:
        """`rows_per_draw` prompts, with words such as names drawn at random."""
