"""A task on Boolean expressions, put in two ways, so that the two circuits can be compared."""

import ast
import random
import re

from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.prompt_spec import Fill, PromptSpec
from sparse_lens.evals.tasks.splits import Splits
from sparse_lens.evals.tasks.template import Pair

_WORDS = {"_": ("True", "False"), "?": ("and", "or")}
_OTHER = {"True": "False", "False": "True", "and": "or", "or": "and"}

_INSTRUCTION = "Evaluate the following Boolean expression as either True or False.\n"
_EXAMPLES = (
    "False and False is False\nTrue or False is True\nnot False is True\nnot True is False\n"
)

# `_` is True or False, `?` is `and` or `or`.
_EXPRESSIONS = Splits(
    train=(
        "(_ ? _) ? (not _ ? _)",
        "(_ ? not _) ? _ ? _",
        "not _ ? (_ ? _ ? _)",
        "_ ? _ ? (_ ? _)",
        "(not _) ? (_ ? _)",
    ),
    validation=("(not _ ? _) ? (_ ? _)", "_ ? (_ ? _) ? not _", "not (_ ? _) ? _", "(_ ? _ ? _)"),
    held_out=(
        "(_ ? _) ? (_ ? _)",
        "_ ? (not _ ? _) ? _",
        "not (_ ? _) ? (_ ? _)",
        "_ ? _ ? not _ ? _",
        "(_ ? _) ? not _",
    ),
)


def _question(before: str) -> Fill:
    """Makes two expressions of different value that differ in one word, put after a text."""

    def fill(rng: random.Random, shape: str) -> tuple[Contrast, ...]:
        flips: list[str] = []
        while not flips:
            words = [rng.choice(_WORDS.get(part, (part,))) for part in re.split(r"([_?])", shape)]
            expression = "".join(words)
            flips = [
                flipped
                for place, word in enumerate(words)
                if word in _OTHER
                for flipped in ["".join([*words[:place], _OTHER[word], *words[place + 1 :]])]
                if value(flipped) != value(expression)
            ]
        right, wrong = f" {value(expression)}", f" {not value(expression)}"
        clean, corrupted = (f"{before}{text} is" for text in (expression, rng.choice(flips)))
        return Pair(clean, corrupted, right, wrong).rows

    return fill


def value(expression: str) -> bool:
    """Of a Boolean expression in Python's words."""
    return _value(ast.parse(expression, mode="eval").body)


def _value(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        together = all if isinstance(node.op, ast.And) else any
        return together(map(_value, node.values))
    if isinstance(node, ast.UnaryOp):
        return not _value(node.operand)
    assert isinstance(node, ast.Constant)
    return bool(node.value)


def _style(name: str, question: str, before: str) -> PromptSpec:
    return PromptSpec(
        name=name,
        question=question,
        statements=_EXPRESSIONS,
        fill=_question(before),
        shared_candidates=(" True", " False"),
        rows_per_draw=2,
        drawn_as="boolean",
    )


BOOLEAN_INSTRUCTION = _style(
    "boolean_instruction", "Is this expression true or false, asked in words?", _INSTRUCTION
)
BOOLEAN_FEW_SHOT = _style(
    "boolean_few_shot", "Is this expression true or false, as in the lines before it?", _EXAMPLES
)
