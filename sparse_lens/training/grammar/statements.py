"""Random statements of one line, most of them a choice between two ways to go on."""

from sparse_lens.training.grammar.expressions import (
    atom,
    brief,
    call,
    chain,
    condition,
    dict_or_list,
    lambda_,
    list_ending_once,
    list_ending_twice,
)
from sparse_lens.training.grammar.pen import Pen

_OPERATORS = ("+=", "+=", "-=", "*=", "|=")


def target(pen: Pen) -> str:
    """The target of an assignment."""
    return pen.name() if pen.chance(0.7) else chain(pen)


def assignment(pen: Pen) -> str:
    """``a = ...``"""
    return f"{target(pen)} = {brief(pen)}"


def augmented(pen: Pen) -> str:
    """``a += ...``"""
    return f"{chain(pen)} {pen.pick(_OPERATORS)} {brief(pen)}"


def quoted_call(pen: Pen) -> str:
    """A call whose last argument is a string, which closes with the mark that opened it.

    Strings in either style may come before it, so that only the last opening mark decides.
    """
    before = [pen.pick((pen.string, lambda: atom(pen)))() for _ in range(pen.pick((0, 0, 0, 1, 2)))]
    inside = ", ".join([*before, pen.string(1, 6)])
    function = pen.pick((pen.name(), chain(pen), "print", f"{chain(pen)}.{pen.name()}"))
    return f"{_start(pen)}{function}({inside})"


def _start(pen: Pen) -> str:
    draw = pen.random()
    if draw < 0.55:
        return ""
    if draw < 0.8:
        return f"{target(pen)} = "
    return pen.pick(("return ", "raise ", "yield ", "await "))


def list_statement(pen: Pen) -> str:
    """A list at the end of a line: one bracket or two.

    Two more often than one, because subscripts and other statements' lists end in one.
    """
    start = pen.pick((f"{target(pen)} = ", f"{target(pen)} = ", f"{target(pen)} = "))
    if pen.chance(0.25):
        start = pen.pick(("return ", "yield ", f"{chain(pen)} += "))
    make = list_ending_once if pen.chance(0.3) else list_ending_twice
    return start + make(pen)


def mapping_statement(pen: Pen) -> str:
    """A dict or a list with the same keys."""
    start = pen.pick((f"{target(pen)} = ", f"{target(pen)} = ", "return ", f"{chain(pen)} += "))
    return start + dict_or_list(pen, dicts=0.85)


def swap(pen: Pen) -> str:
    """``a, b = b, a``, sometimes of attributes, subscripts or unrelated names."""
    a, b, c, d = pen.names(4)
    draw = pen.random()
    if draw < 0.62:
        return f"{a}, {b} = {b}, {a}"
    if draw < 0.8:
        owner = pen.pick(("self", c))
        return f"{owner}.{a}, {owner}.{b} = {owner}.{b}, {owner}.{a}"
    if draw < 0.88:
        return f"{c}[{a}], {c}[{b}] = {c}[{b}], {c}[{a}]"
    if draw < 0.93:
        return f"{a}, {b} = {c}, {d}"
    return f"{a}, {b} = {call(pen, 1)}"


def lambda_statement(pen: Pen) -> str:
    """A lambda after ``return``, ``yield`` or ``=``, or in a call."""
    text = lambda_(pen, pen.between(0, 1))
    draw = pen.random()
    if draw < 0.5:
        return f"return {text}"
    if draw < 0.65:
        return f"yield {text}"
    if draw < 0.75:
        return f"{target(pen)} = {text}"
    if draw < 0.82:
        return f"{target(pen)} = sorted({atom(pen)}, {pen.name()}={text})"
    if draw < 0.93:
        return f"{chain(pen)}({atom(pen)}, {text})"
    return f"{target(pen)} = [{text}, {lambda_(pen, 0)}]"


def one_line_if(pen: Pen) -> str:
    """``if a: b = c``, or with a condition of several terms."""
    test = chain(pen)
    if pen.chance(0.3):
        test = f"{chain(pen)} {pen.pick(('and', 'or'))} {pen.pick(('', 'not '))}{chain(pen)}"
    word = "while" if pen.chance(0.08) else "if"
    operator = "=" if pen.chance(0.9) else pen.pick(_OPERATORS)
    return f"{word} {test}: {target(pen)} {operator} {brief(pen)}"


def equals_test(pen: Pen) -> str:
    """``a and b == c`` as a condition, for the many places where one may stand."""
    first = pen.pick(
        (chain, chain, chain, chain, lambda p: f"not {chain(p)}", lambda p: call(p, 0))
    )(pen)
    text = f"{first} {pen.pick(('and', 'and', 'or'))} {chain(pen)} == {atom(pen)}"
    if pen.chance(0.12):
        text = f"{chain(pen)} and {text}"
    return text


def dotted(pen: Pen) -> str:
    """A module's name."""
    return ".".join(pen.names(pen.pick((1, 1, 2, 2, 2, 3, 4))))


def import_(pen: Pen) -> str:
    """``from a.b import c`` or ``import a.b``."""
    if pen.chance(0.5):
        start = pen.pick(("", "", "", ".", "..")) if pen.chance(0.3) else ""
        what = ", ".join(pen.names(pen.pick((1, 1, 1, 2, 3))))
        return f"from {start}{dotted(pen)} import {what}"
    text = f"import {dotted(pen)}"
    if pen.chance(0.1):
        text += f" as {pen.name()}"
    elif pen.chance(0.06):
        text += f", {dotted(pen)}"
    return text


def opening(pen: Pen) -> str:
    """A call that makes a context manager, or a name that is one."""
    draw = pen.random()
    if draw < 0.5:
        inside = pen.pick((chain, chain, atom))(pen)
        if pen.chance(0.35):
            mode = pen.pick(("r", "w", "rb", "wb", "a"))
            inside += f', "{mode}"' if pen.chance(0.5) else f", '{mode}'"
        return f"open({inside})"
    if draw < 0.75:
        return chain(pen)
    return call(pen, 1)


def plain_opening(pen: Pen) -> str:
    """The same without ``with``."""
    start = pen.pick((f"{target(pen)} = ", f"{target(pen)} = ", "return ", "", "await "))
    if start.endswith("= ") and pen.chance(0.2):
        start += "await "
    return start + opening(pen)


def leaving(pen: Pen) -> str:
    """``return``, ``yield``, ``raise`` or ``assert`` with a condition as long as a loop's."""
    word = pen.pick(("return", "return", "return", "return", "yield", "assert", "raise", "del"))
    if word in ("raise", "del"):
        return f"{word} {call(pen, 1) if word == 'raise' else chain(pen)}"
    if pen.chance(0.06):
        return f"{word} {equals_test(pen)}"
    return f"{word} {condition(pen)}"


def boolean_assignment(pen: Pen) -> str:
    """``a = True`` and its like."""
    return f"{target(pen)} = {pen.pick(('True', 'False', 'None', chain(pen)))}"


_SIMPLE = (
    (assignment, 4),
    (augmented, 1),
    (lambda pen: call(pen, 1), 3),
    (quoted_call, 8),
    (list_statement, 9),
    (mapping_statement, 8),
    (swap, 11),
    (lambda_statement, 13),
    (one_line_if, 10),
    (import_, 13),
    (plain_opening, 10),
    (leaving, 7),
    (boolean_assignment, 3),
)
_MAKERS = tuple(make for make, weight in _SIMPLE for _ in range(weight))


def simple_statement(pen: Pen) -> str:
    """Any statement of one line."""
    return pen.pick(_MAKERS)(pen)
