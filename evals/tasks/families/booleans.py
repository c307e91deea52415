"""A task on Boolean expressions in two wordings, so that their circuits can be compared."""

import ast
import random
import re

from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.prompt_spec import Fill, PromptSpec
from sparse_lens.evals.tasks.splits import Splits
from sparse_lens.evals.tasks.template import Pair

_WORDS = {"_": ("True", "False"), "?": ("and", "or")}
"""By placeholder the words that replace it."""

_FLIPPED = {"True": "False", "False": "True", "and": "or", "or": "and"}

_INSTRUCTION = "Evaluate the following Boolean expression as either True or False.\n"
_EXAMPLES = (
    "False and False is False\nTrue or False is True\nnot False is True\nnot True is False\n"
)

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


def _expressions_after(text: str) -> Fill:
    """Fills a template with two expressions that differ in one word and in value, after a text."""

    def fill(rng: random.Random, template: str) -> tuple[Contrast, ...]:
        candidates: list[str] = []
        while not candidates:  # no single word changes the value of some expressions
            parts = re.split(r"([_?])", template)
            words = [rng.choice(_WORDS.get(part, (part,))) for part in parts]
            expression = "".join(words)
            candidates = [
                flipped for flipped in _flipped(words) if value(flipped) != value(expression)
            ]
        right, wrong = f" {value(expression)}", f" {not value(expression)}"
        clean, corrupted = (f"{text}{e} is" for e in (expression, rng.choice(candidates)))
        return Pair(clean, corrupted, right, wrong).rows

    return fill


def _flipped(words: list[str]) -> list[str]:
    """The expressions that differ in one word."""
    return [
        "".join([*words[:i], _FLIPPED[word], *words[i + 1 :]])
        for i, word in enumerate(words)
        if word in _FLIPPED
    ]


def value(expression: str) -> bool:
    """The value of a Boolean expression in Python's syntax.

    Raises:
        ValueError: for anything but `and`, `or`, `not` and constants.
    """
    return _value(ast.parse(expression, mode="eval").body)


def _value(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        combine = all if isinstance(node.op, ast.And) else any
        return combine([_value(part) for part in node.values])  # a list, so that each is checked
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _value(node.operand)
    if isinstance(node, ast.Constant):
        return bool(node.value)
    raise ValueError(
        f"a Boolean expression has and, or, not and constants, got {ast.unparse(node)!r}; write "
        "names out as True or False."
    )


def _in_wording(name: str, question: str, text: str) -> PromptSpec:
    return PromptSpec(
        name=name,
        question=question,
        statements=_EXPRESSIONS,
        fill=_expressions_after(text),
        shared_candidates=(" True", " False"),
        rows_per_draw=2,
        drawn_as="boolean",
    )


BOOLEAN_INSTRUCTION = _in_wording(
    "boolean_instruction", "Is this expression true or false, asked in words?", _INSTRUCTION
)
BOOLEAN_FEW_SHOT = _in_wording(
    "boolean_few_shot", "Is this expression true or false, as in the lines before it?", _EXAMPLES
)
