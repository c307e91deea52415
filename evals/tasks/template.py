"""Text templates with a choice of two: filled in both ways, they give a pair of prompts."""

import random
import re
from dataclasses import dataclass

from sparse_lens.evals.tasks.contrast import Contrast

_CHOICE = re.compile(r"\$\(([^()|]*)\|([^()|]*)\)")
_LETTER = re.compile(r"\$([a-zA-Z])")
_NUMBER = re.compile(r"\$([0-9])")


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ only in the words that decide the answer, and their answers."""

    clean: str
    corrupted: str

    answer: str
    """The right continuation of the clean prompt."""

    distractor: str
    """The right continuation of the corrupted prompt."""

    @property
    def rows(self) -> tuple[Contrast, Contrast]:
        """Both members, each as the clean prompt: a constant answer is then right half the time."""
        return (
            Contrast(self.clean, self.corrupted, (self.answer,), (self.distractor,)),
            Contrast(self.corrupted, self.clean, (self.distractor,), (self.answer,)),
        )


@dataclass(frozen=True)
class Filling:
    """One draw of names and numbers for the placeholders of a template.

    - `$a` to `$z`: a name, the same at each occurrence of a letter, different for each letter;
    - `$A` to `$Z`: the name of the lower-case letter, capitalised;
    - `$0` to `$9`: a number;
    - `$(for|while)`: `for` in the first member of a pair, `while` in the second.
    """

    names: dict[str, str]
    """By letter."""

    numbers: dict[str, str]
    """By digit."""

    @classmethod
    def draw(cls, rng: random.Random, template: str, identifiers: tuple[str, ...]) -> "Filling":
        """Random names, without replacement, and numbers for the placeholders of a template.

        Raises:
            ValueError: when the template has more letters than there are identifiers.
        """
        letters = list(dict.fromkeys(letter.lower() for letter in _LETTER.findall(template)))
        if len(letters) > len(identifiers):
            raise ValueError(
                f"template {template!r} names {len(letters)} things and the split has "
                f"{len(identifiers)} identifiers; use fewer letters or more identifiers."
            )
        names = dict(zip(letters, rng.sample(identifiers, len(letters)), strict=True))
        digits = dict.fromkeys(_NUMBER.findall(template))
        return cls(names, {digit: str(rng.randint(2, 99)) for digit in digits})

    def fill(self, template: str, member: int = 0) -> str:
        """The text of a member of the pair, 0 or 1."""
        text = _CHOICE.sub(lambda match: match.group(1 + member), template)
        text = _NUMBER.sub(lambda match: self.numbers[match.group(1)], text)
        return _LETTER.sub(lambda match: self._name(match.group(1)), text)

    def _name(self, letter: str) -> str:
        name = self.names[letter.lower()]
        return name.capitalize() if letter.isupper() else name


def has_choice(template: str) -> bool:
    """Whether the two members of a pair differ in this template."""
    return _CHOICE.search(template) is not None
