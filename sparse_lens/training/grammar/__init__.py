"""A generator of varied Python snippets in which small choices recur often.

Which quotation mark closes a string, how many brackets close a list, whether a name was a set or
a string: the corpus shows every such choice thousands of times, with random names and random code
between what decides and what follows, so that a small model has to learn the rule.
"""

import random
from collections.abc import Iterator

from sparse_lens.training.grammar.blocks import snippet
from sparse_lens.training.grammar.drills import drill
from sparse_lens.training.grammar.pen import Pen
from sparse_lens.training.grammar.statements import import_
from sparse_lens.training.grammar.words import GRAMMAR_IDENTIFIERS, RESERVED_IDENTIFIERS

__all__ = ["GRAMMAR_IDENTIFIERS", "RESERVED_IDENTIFIERS", "generate_module", "generate_modules"]


def generate_module(rng: random.Random) -> str:
    """One module: a few snippets that share a vocabulary, from a line to about a page."""
    pen = Pen(rng)
    lines = [import_(pen) for _ in range(rng.choice((0, 0, 0, 1, 2, 4)))]
    for _ in range(rng.randint(2, 12)):
        # Drills are about half as long as snippets: this makes them four fifths of the text.
        lines += drill(pen) if pen.chance(0.9) else snippet(pen)
    return "\n".join(lines) + "\n"


def generate_modules(*, characters: int | None = None, seed: int) -> Iterator[str]:
    """Modules of at least so many characters together, or without end; a seed fixes them."""
    rng = random.Random(seed)
    written = 0
    while characters is None or written < characters:
        module = generate_module(rng)
        written += len(module)
        yield module
