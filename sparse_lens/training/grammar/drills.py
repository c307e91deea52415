"""Drills: short functions of plain statements, in which nothing but one small choice matters.

The rest of the grammar shows the same choices among all that code may hold. Here names stand
where there are expressions elsewhere, so that what decides is seen often enough for a small model.
"""

from sparse_lens.training.grammar.pen import Pen, indent

Lines = list[str]

# How often a choice falls on the outcome that all other text, where lines end in a name or in one
# bracket, shows less often.
_RARER = 0.7


def plain(pen: Pen) -> str:
    """A name of the module, or two of them as one."""
    if pen.chance(0.6):
        return pen.name()
    return "_".join(pen.names(2))


def term(pen: Pen) -> str:
    """A name, an attribute or a bare call's attribute."""
    draw = pen.random()
    if draw < 0.5:
        return plain(pen)
    if draw < 0.85:
        return f"{plain(pen)}.{plain(pen)}"
    if draw < 0.95:
        return f"{plain(pen)}({plain(pen)}).{plain(pen)}"
    return f"{plain(pen)}[{pen.number()}].{plain(pen)}"


def terms(pen: Pen) -> str:
    """One to three terms joined by operators."""
    parts = [term(pen)]
    for _ in range(pen.pick((0, 0, 1, 1, 2))):
        operator = pen.pick(("and", "or", "in", "is", "not in", "+", "-", "<", ">=", "!="))
        parts += [operator, plain(pen) if pen.chance(0.7) else term(pen)]
    return " ".join(parts)


def filler(pen: Pen) -> Lines:
    """A statement that decides nothing."""
    value = pen.pick(
        (
            lambda: plain(pen),
            lambda: f"{plain(pen)}.{plain(pen)}",
            lambda: f"{plain(pen)} {pen.pick('+-*')} {pen.number()}",
            lambda: f"{plain(pen)}({plain(pen)})",
            lambda: f"{plain(pen)}[{pen.number()}].{plain(pen)}",
            pen.number,
        )
    )()
    return [f"{plain(pen)} = {value}"]


def _body(pen: Pen) -> Lines:
    return indent(pen.pick((filler(pen), ["pass"], [f"{plain(pen)}({plain(pen)})"])))


def loop(pen: Pen) -> Lines:
    """``for a in b:`` or ``while a:``"""
    if pen.chance(0.5):
        return [f"for {plain(pen)} in {term(pen)}:", *_body(pen)]
    return [f"while {plain(pen)}:", *_body(pen)]


def loop_or_return(pen: Pen) -> Lines:
    """The same terms behind ``while`` and behind ``return``."""
    if pen.chance(0.5):
        return [f"while {terms(pen)}:", *_body(pen)]
    return [f"return {terms(pen)}"]


def manager(pen: Pen) -> Lines:
    """The same term behind ``with`` and behind what needs no name."""
    before = pen.pick(("", "", "async "))
    if pen.chance(_RARER):
        return [f"{before}with {term(pen)} as {plain(pen)}:", *_body(pen)]
    start = pen.pick(("return", "return", f"{plain(pen)} =", "yield", "await"))
    return [f"{start} {term(pen)}"]


def definition(pen: Pen) -> Lines:
    """``return lambda a: b`` or ``async def a(b):``"""
    if pen.chance(_RARER):
        word = pen.pick(("return", "return", "return", "yield"))
        return [f"{word} lambda {plain(pen)}: {term(pen)}"]
    return [f"async def {plain(pen)}({plain(pen)}):", *_body(pen)]


def test_or_assignment(pen: Pen) -> Lines:
    """``if a and b == c:`` or ``if a: b = c``"""
    if pen.chance(_RARER):
        joint = pen.pick(("and", "and", "or"))
        return [f"if {plain(pen)} {joint} {plain(pen)} == {plain(pen)}:", *_body(pen)]
    return [f"if {plain(pen)}: {plain(pen)} = {plain(pen)}"]


def import_line(pen: Pen) -> Lines:
    """``from a.b import c`` or ``import a.b``"""
    module = ".".join(plain(pen) for _ in range(pen.pick((1, 1, 2, 2, 3))))
    if pen.chance(_RARER):
        return [f"from {module} import {plain(pen)}"]
    return [f"import {module}"]


def _start(pen: Pen) -> str:
    return pen.pick((f"{plain(pen)} =", f"{plain(pen)} =", "return", f"{plain(pen)} +="))


def brackets(pen: Pen) -> Lines:
    """A list that closes with one bracket or with two."""
    make = pen.pick((pen.number, lambda: plain(pen), lambda: plain(pen), pen.string))
    inside = ", ".join(make() for _ in range(pen.between(1, 6)))
    return [f"{_start(pen)} [[{inside}]]" if pen.chance(0.6) else f"{_start(pen)} [{inside}]"]


def keys(pen: Pen) -> Lines:
    """The same key at the start of a dict and of a list."""
    key = pen.pick(
        (
            pen.string,
            pen.number,
            lambda: term(pen),
            lambda: plain(pen),
            lambda: f"{plain(pen)} + {plain(pen)}",
        )
    )()
    value = pen.pick((pen.number, lambda: plain(pen), pen.string))()
    if pen.chance(_RARER):
        return [f"{_start(pen)} {{{key}: {value}}}"]
    return [f"{_start(pen)} [{key}, {value}]"]


def quotes(pen: Pen) -> Lines:
    """A call with a string that closes as it was opened."""
    before = f"{plain(pen)}, " if pen.chance(0.2) else ""
    start = f"{plain(pen)} = " if pen.chance(0.3) else ""
    return [f"{start}{term(pen)}({before}{pen.string(1, 5)})"]


def exchange(pen: Pen) -> Lines:
    """``a, b = b, a``, sometimes of one attribute of both."""
    one, two = pen.names(2)
    if pen.chance(0.2):
        tail = f".{plain(pen)}"
        one, two = one + tail, two + tail
    return [f"{one}, {two} = {two}, {one}"]


# Those of which a small model finds what decides late stand twice.
_CHOICES = (
    *((loop_or_return, manager, brackets, quotes) * 2),
    loop,
    definition,
    test_or_assignment,
    import_line,
    keys,
    exchange,
)


def drill_function(pen: Pen) -> Lines:
    """A function of a few choices and fillers; often a name that is a set or a string."""
    arguments = ", ".join(pen.names(pen.between(1, 3)))
    lines: Lines = []
    gathered = plain(pen)
    gathers = pen.chance(0.65)
    if gathers:
        kind = pen.pick(("set()", "str()"))
        lines.append(f"{gathered} = {kind}")
        for _ in range(pen.between(0, 2)):
            lines += filler(pen)
        lines.append(
            f"{gathered}.add({plain(pen)})" if kind == "set()" else f"{gathered} += {plain(pen)}"
        )
    for _ in range(pen.between(1, 4)):
        if pen.chance(0.4):
            lines += filler(pen)
        lines += pen.pick(_CHOICES)(pen)
    return [f"def {plain(pen)}({arguments}):", *indent(lines)]


def drill_class(pen: Pen) -> Lines:
    """A class that keeps what it is given, under the same names, some of them alike at the end."""
    names = list(dict.fromkeys(plain(pen) for _ in range(pen.between(2, 4))))
    if pen.chance(0.35):
        ending = pen.name()
        names = [f"{name}_{ending}" for name in names]
    fields = list(names)
    if pen.chance(0.6):
        pen.rng.shuffle(fields)
    lines = [f"def __init__(self, {', '.join(names)}):"]
    lines += indent([f"self.{field} = {field}" for field in fields])
    return [f"class {pen.title()}:", *indent(lines)]


def drill(pen: Pen) -> Lines:
    """A function, a class, or lines of a module."""
    draw = pen.random()
    if draw < 0.78:
        return drill_function(pen)
    if draw < 0.88:
        return drill_class(pen)
    return [line for _ in range(pen.between(1, 4)) for line in pen.pick((import_line, filler))(pen)]
