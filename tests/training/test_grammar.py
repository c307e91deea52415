"""The grammar: valid, varied, even-handed, and without the identifiers of the tests."""

import ast
import re
from itertools import islice

import pytest

from sparse_lens.training.grammar import (
    GRAMMAR_IDENTIFIERS,
    RESERVED_IDENTIFIERS,
    generate_modules,
)

# What the two outcomes of each behaviour look like in a line of text, written down independently
# of how the grammar makes them.
_NAME = r"[\w.]+"
_KEY = r"(?:\"[^\"]*\"|'[^']*'|[\w.]+)"
OUTCOMES = {
    "single_double_quote": (r'"\)$', r"'\)$"),
    "bracket_counting": (r"[^\]\[]\]$", r"[^\]\[]\]\]$"),
    "bracket_brace": (rf" \{{{_KEY}:", rf" \[{_KEY},"),
    "set_or_string": (r"^\s*\w+\.add\(", r"^\s*\w+ \+="),
    "while_return_true": (r"^\s*while .*:$", r"^\s*return .*$"),
    "lambda_func": (r"(?:return|yield) lambda \w+:", r"async def \w+\("),
    "for_while": (r"^\s*for \w+ in ", r"^\s*while \w+:$"),
    "with_as": (r"with open\(.*\) as ", r"(?:=|return|await) open\(.*\)$"),
    "if_equals": (
        rf"if (?:not )?{_NAME} (?:and|or) {_NAME} == ",
        rf"if (?:{_NAME} (?:and|or) )?{_NAME}: {_NAME} = ",
    ),
    "import_from": (rf"^\s*from {_NAME} import ", rf"^\s*import {_NAME}$"),
}
# One outcome is spelled by whichever name it is, so there is no second count to compare with.
COPIES = {
    "var_swap": r"^\s*(\w+), (\w+) = \2, \1$",
    "class_init": r"^\s*self\.(\w+) = \1$",
}


@pytest.fixture(scope="module")
def modules() -> list[str]:
    # The training text has four times as much of the grammar as of the library, so four samples.
    return list(generate_modules(characters=3_200_000, seed=3))


@pytest.fixture(scope="module")
def text(modules: list[str]) -> str:
    return "".join(modules)


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.MULTILINE))


@pytest.fixture(scope="module")
def trees(modules: list[str]) -> list[ast.Module]:
    return [ast.parse(module) for module in modules]


@pytest.fixture(scope="module")
def functions(trees: list[ast.Module]) -> list[ast.FunctionDef]:
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [node for node in nodes if isinstance(node, ast.FunctionDef)]


def test_every_module_parses(modules: list[str], trees: list[ast.Module]) -> None:
    assert len(trees) == len(modules)


def test_a_seed_fixes_the_modules() -> None:
    first = list(islice(generate_modules(seed=7), 20))
    assert list(islice(generate_modules(seed=7), 20)) == first
    assert list(islice(generate_modules(seed=8), 20)) != first


def test_no_identifier_of_the_tests_occurs(text: str) -> None:
    assert {"name", "height", "left", "second"} <= RESERVED_IDENTIFIERS
    assert RESERVED_IDENTIFIERS.isdisjoint(GRAMMAR_IDENTIFIERS)
    # Every run of letters anywhere, also inside longer names and strings.
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", text)}
    assert RESERVED_IDENTIFIERS.isdisjoint(words)


@pytest.mark.parametrize("behaviour", OUTCOMES)
def test_both_outcomes_are_frequent_and_about_equally_so(behaviour: str, text: str) -> None:
    one, other = (_count(pattern, text) for pattern in OUTCOMES[behaviour])
    # 3,200,000 characters are about 1,300,000 tokens.
    assert min(one, other) > 80, (one, other)
    assert max(one, other) < 3.5 * min(one, other), (one, other)


@pytest.mark.parametrize("behaviour", COPIES)
def test_names_are_copied_often(behaviour: str, text: str) -> None:
    assert _count(COPIES[behaviour], text) > 160


def test_the_order_of_fields_is_not_the_order_of_arguments(
    functions: list[ast.FunctionDef],
) -> None:
    ordered = disordered = 0
    for function in functions:
        arguments = [argument.arg for argument in function.args.args]
        copied = [
            statement.value.id
            for statement in function.body
            if isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Attribute)
            and isinstance(statement.value, ast.Name)
            and statement.targets[0].attr == statement.value.id
        ]
        if function.name == "__init__" and len(copied) > 2:
            in_order = copied == [name for name in arguments if name in copied]
            ordered, disordered = ordered + in_order, disordered + (not in_order)
    assert ordered > 30
    assert disordered > 30


def test_sets_and_strings_are_alive_together_and_used_later(
    functions: list[ast.FunctionDef],
) -> None:
    """The last few tokens cannot say what an accumulator is: others stand in between."""
    mixed = apart = 0
    for function in functions:
        kinds: dict[str, str] = {}
        for statement in function.body:
            line = ast.unparse(statement)
            opened = re.match(r"(\w+) = (set|str)\(", line)
            if opened:
                kinds[opened[1]] = opened[2]
            used = re.match(r"(\w+)(\.add\(| \+=)", line)
            if used and used[1] in kinds:
                mixed += len({*kinds.values()}) == 2
                apart += list(kinds)[-1] != used[1]
    assert mixed > 100
    assert apart > 50


def test_names_are_many(text: str) -> None:
    names = set(re.findall(r"\b[a-z_]\w+", text))
    assert len(names) > 2000
    assert len(set(text.split("\n"))) > 0.7 * text.count("\n")
