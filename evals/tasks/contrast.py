"""One prompt with its corrupted version, as text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """A prompt, the prompt that it is contrasted with, and what may follow it."""

    clean: str

    corrupted: str
    """The same with the deciding words exchanged for others."""

    answers: tuple[str, ...]
    """What rightly follows the clean prompt; the first is checked to follow it as one token."""

    distractors: tuple[str, ...]

    whole: tuple[str, ...] = ()
    """Parts of the clean prompt that must be tokens of their own in it, such as names."""
