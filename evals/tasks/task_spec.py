"""Tasks of two answers on Python code, written as templates."""

import random
from dataclasses import dataclass

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.splits import FUNCTION_OPENINGS, IDENTIFIERS, Splits
from sparse_lens.evals.tasks.template import Filling, Pair, has_choice
from sparse_lens.task import SPLITS


@dataclass(frozen=True)
class TaskSpec(Spec):
    """A binary choice of the next token in Python code, written as text templates.

    A new task is one such object, which is passed to `tasks.build`:

        TaskSpec(
            name="while_true",
            question="Does a loop follow, or a value?",
            answers=(":\\n", "\\n"),
            statements=Splits(
                train=("    $(while|return) $x.$a < $b_$c",),
                validation=("    $(while|return) not $x.$a",),
                held_out=("    $(while|return) $a_$b in $x",),
            ),
        )

    Placeholders are those of `sparse_lens.evals.tasks.template.Filling`. A prompt is an opening
    followed by a statement; the answer is the next token.

    Raises:
        ValueError: when a statement has no `$(first|second)`, or splits share a template.
    """

    name: str

    question: str
    """What the model has to tell apart, in one line."""

    answers: tuple[str, str]
    """The answers to the first and the second member of a pair; they may hold placeholders."""

    statements: Splits
    """Templates that end before the answer, which their `$(first|second)` decide."""

    openings: Splits | None = FUNCTION_OPENINGS
    """Templates of the code before a statement; None for no such code."""

    identifiers: Splits | tuple[str, ...] = IDENTIFIERS
    """Names that replace the letters: different ones in each split, or the same in all.

    They are the same where an answer is a name: a circuit that copies names may not be able to
    copy one that it was not found on, and a small vocabulary has few names that are one token.
    """

    deciding_tokens: int = 1
    """The most tokens in which the members of a pair may differ."""

    # Without annotations these are not fields of the dataclass. Shorter prompts than `min_tokens`
    # could occur word for word in the training text.
    min_tokens = 12
    max_tokens = 64
    rows_per_draw = 2

    def __post_init__(self) -> None:
        for split in SPLITS:
            for statement in self.statements.of(split):
                if not has_choice(statement):
                    raise ValueError(
                        f"task {self.name!r}: statement {statement!r} has no $(first|second); "
                        "without one both members of a pair are the same prompt."
                    )

    @property
    def candidates(self) -> tuple[str, ...]:
        """The two answers; none where they hold names that are drawn for each prompt."""
        return () if "$" in "".join(self.answers) else self.answers

    def templates(self, split: str) -> tuple[str, ...]:
        """Every opening of the split with every statement of it."""
        return tuple(
            opening + statement
            for opening in self._openings(split)
            for statement in self.statements.of(split)
        )

    def draw(self, rng: random.Random, split: str) -> Pair:
        """A pair of prompts with names and numbers drawn at random."""
        template = rng.choice(self._openings(split)) + rng.choice(self.statements.of(split))
        identifiers = self.identifiers
        if isinstance(identifiers, Splits):
            identifiers = identifiers.of(split)
        filling = Filling.draw(rng, template, identifiers)
        return Pair(
            clean=filling.fill(template, 0),
            corrupted=filling.fill(template, 1),
            answer=filling.fill(self.answers[0]),
            distractor=filling.fill(self.answers[1]),
        )

    def draw_rows(self, rng: random.Random, split: str) -> tuple[Contrast, ...]:
        """Both members of a random pair, each as the clean prompt."""
        return self.draw(rng, split).rows

    def _openings(self, split: str) -> tuple[str, ...]:
        return ("",) if self.openings is None else self.openings.of(split)
