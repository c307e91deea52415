"""A task on numbers in English: the year of an end is greater than that of the start."""

import random

from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.prompt_spec import PromptSpec
from sparse_lens.evals.tasks.splits import Splits

_CENTURIES = range(11, 18)
_TWO_DIGITS = tuple(f"{number:02}" for number in range(100))
_NOUNS = (
    *("war", "siege", "voyage", "drought", "trial", "reign", "debate", "campaign", "dispute"),
    *("expedition", "famine", "revolt", "truce", "plague", "project", "conflict"),
)


def _greater_than(rng: random.Random, template: str) -> tuple[Contrast, ...]:
    """A prompt whose start is 02 to 98: it is not the corrupted one, 01, and later ends exist."""
    noun, century, start = rng.choice(_NOUNS), rng.choice(_CENTURIES), rng.randint(2, 98)

    def text(digits: str) -> str:
        return template.format(noun=noun, start=f"{century}{digits}", century=century)

    start_digits = _TWO_DIGITS[start]
    return (
        Contrast(
            clean=text(start_digits),
            corrupted=text("01"),
            answers=_TWO_DIGITS[start + 1 :],
            distractors=_TWO_DIGITS[: start + 1],
            whole=(start_digits,),
        ),
    )


GREATER_THAN = PromptSpec(
    name="greater_than",
    question="Which two digits make this year come after the year of the start?",
    statements=Splits(
        train=(
            "The {noun} lasted from the year {start} to the year {century}",
            "The {noun} began in the year {start} and ended in the year {century}",
            "The {noun} went on from the year {start} until the year {century}",
        ),
        validation=(
            "Records of the {noun} run from the year {start} to the year {century}",
            "The {noun} started in {start} and was over by {century}",
            "It is said that the {noun} lasted from {start} to {century}",
        ),
        held_out=(
            "They saw the {noun} from the year {start} up to the year {century}",
            "The {noun} of {start} did not end before the year {century}",
            "There was a {noun} between the year {start} and the year {century}",
            "The {noun} was planned in {start} and carried out in {century}",
        ),
    ),
    fill=_greater_than,
    shared_candidates=_TWO_DIGITS,
)
