"""One prompt with its corrupted version, as text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """A clean prompt, its corrupted version, and the tokens that are compared after it."""

    clean: str

    corrupted: str
    """The clean prompt with other words in place of those that decide the answer."""

    answers: tuple[str, ...]
    """Right continuations of the clean prompt; the first is checked to follow it as one token."""

    distractors: tuple[str, ...]
    """Wrong continuations of the clean prompt."""

    whole: tuple[str, ...] = ()
    """Parts of the clean prompt that must be single tokens in it, such as names."""
