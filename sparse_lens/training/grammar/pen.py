"""The state of the generator of one module: its random numbers and the names in use."""

import random
from collections.abc import Sequence
from typing import TypeVar

from sparse_lens.training.grammar.words import make_identifier, make_word

_T = TypeVar("_T")


class Pen:
    """Draws names, strings and choices for one module, from a vocabulary of its own.

    With a small vocabulary names recur, so that a model has to look up in the module what a name
    is, and cannot memorise it.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.random = rng.random
        self._names = list(dict.fromkeys(make_identifier(rng) for _ in range(rng.randint(14, 34))))
        self._words = [make_word(rng) for _ in range(rng.randint(12, 30))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def pick(self, options: Sequence[_T]) -> _T:
        """One of the options, all equally likely."""
        return options[int(self.random() * len(options))]

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.random() * (high - low + 1))

    def name(self) -> str:
        """A name of this module."""
        return self.pick(self._names)

    def names(self, number: int) -> list[str]:
        """Different names of this module."""
        return self.rng.sample(self._names, number)

    def title(self) -> str:
        """A name of a class."""
        return "".join(part.capitalize() for part in self.name().strip("_").split("_"))

    def word(self) -> str:
        """A word for a string."""
        return self.pick(self._words)

    def words(self, low: int = 1, high: int = 5) -> str:
        """The inside of a string literal: words, sometimes with punctuation."""
        words = [self.pick(self._words) for _ in range(self.between(low, high))]
        if len(words) > 1 and self.chance(0.15):
            words[0] += self.pick((",", ":", ".", "-", " %s", " {}", " %d", "/", "?"))
        return " ".join(words)

    def quote(self) -> str:
        """A quotation mark."""
        return '"' if self.chance(0.5) else "'"

    def string(self, low: int = 1, high: int = 3) -> str:
        """A string literal in either style."""
        quote = self.quote()
        text = self.words(low, high)
        if quote == '"' and self.chance(0.04):
            text += self.pick(("'s", "n't", "'"))
        elif quote == "'" and self.chance(0.04):
            text = f'"{text}"'
        return f"{quote}{text}{quote}"

    def number(self) -> str:
        """A number literal."""
        draw = self.random()
        if draw < 0.6:
            return str(self.between(0, 12))
        if draw < 0.85:
            return str(self.between(10, 400))
        return f"{self.between(0, 20)}.{self.between(0, 99)}"


def indent(lines: list[str]) -> list[str]:
    """The lines one level deeper."""
    return ["    " + line for line in lines]
