"""What a task is: a question, two answers, and templates for the code that asks it."""

import random
from dataclasses import dataclass

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.splits import FUNCTION_OPENINGS, IDENTIFIERS, Splits
from sparse_lens.evals.tasks.template import Filling, Pair, has_choice
from sparse_lens.task import SPLITS


@dataclass(frozen=True)
class TaskSpec(Spec):
    """A binary choice of the next token in Python code, written down as text templates.

    A new task is one such object, handed to `tasks.build`:

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
        ValueError: when a statement leaves nothing open, or splits share a template.
    """

    name: str

    question: str
    """What the model has to tell apart, in one line."""

    answers: tuple[str, str]
    """What follows the first and the second member of a pair; may hold placeholders."""

    statements: Splits
    """Templates whose `$(first|second)` decide, ending where the answer is due."""

    openings: Splits | None = FUNCTION_OPENINGS
    """Templates of code that comes before; None for none."""

    identifiers: Splits | tuple[str, ...] = IDENTIFIERS
    """Names for the letters, other ones in each split or the same in all.

    The same where an answer is a name: a circuit that copies names need not carry one that it
    was not found on, and a small vocabulary has few names that are one token.
    """

    deciding_tokens: int = 1
    """At most so many tokens differ between the members of a pair."""

    # Not annotated: not fields. Shorter prompts could stand in the training text word for word.
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
        """The two answers, unless they hold names of the prompt."""
        return () if "$" in "".join(self.answers) else self.answers

    def templates(self, split: str) -> tuple[str, ...]:
        """Every opening of the split with every statement of it."""
        return tuple(o + s for o in self._openings(split) for s in self.statements.of(split))

    def draw(self, rng: random.Random, split: str) -> Pair:
        """A pair of prompts with names and numbers drawn at random."""
        template = rng.choice(self._openings(split)) + rng.choice(self.statements.of(split))
        names = self.identifiers
        if isinstance(names, Splits):
            names = names.of(split)
        filling = Filling.draw(rng, template, names)
        return Pair(
            clean=filling.fill(template, 0),
            corrupted=filling.fill(template, 1),
            answer=filling.fill(self.answers[0]),
            distractor=filling.fill(self.answers[1]),
        )

    def draw_rows(self, rng: random.Random, split: str) -> tuple[Contrast, ...]:
        """Both members of a pair."""
        return self.draw(rng, split).rows

    def _openings(self, split: str) -> tuple[str, ...]:
        return ("",) if self.openings is None else self.openings.of(split)
