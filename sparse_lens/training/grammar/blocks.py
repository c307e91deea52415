"""Random functions, classes and blocks: statements with a history, nested at random."""

from sparse_lens.training.grammar.expressions import (
    atom,
    brief,
    call,
    chain,
    comparison,
    condition,
)
from sparse_lens.training.grammar.pen import Pen, indent
from sparse_lens.training.grammar.statements import equals_test, opening, simple_statement

Lines = list[str]


def accumulator(pen: Pen, name: str) -> list[Lines]:
    """A set or a string and, later, what it gains; each entry is one statement."""
    draw = pen.random()
    if draw < 0.45:
        first = f"{name} = set({atom(pen) if pen.chance(0.15) else ''})"
        uses = [f"{name}.add({_short(pen)})" for _ in range(pen.between(1, 3))]
    elif draw < 0.9:
        first = f"{name} = {pen.pick(('str()', 'str()', _empty(pen), f'str({atom(pen)})'))}"
        uses = [f"{name} += {_piece(pen)}" for _ in range(pen.between(1, 3))]
    elif draw < 0.95:
        first = f"{name} = []"
        uses = [f"{name}.append({brief(pen)})"]
    else:
        first = f"{name} = 0"
        uses = [f"{name} += {atom(pen)}"]
    last = [f"return {name}"] if pen.chance(0.2) else []
    return [[line] for line in (first, *uses, *last)]


def _short(pen: Pen) -> str:
    """What is added to a set: mostly a name or a literal."""
    return brief(pen) if pen.chance(0.3) else atom(pen)


def _empty(pen: Pen) -> str:
    return pen.pick(("''", '""'))


def _piece(pen: Pen) -> str:
    return pen.pick((pen.string, lambda: chain(pen), lambda: f"str({chain(pen)})", pen.string))()


def history(pen: Pen, number: int) -> list[Lines]:
    """Statements in order: accumulators set up and used, with others in between."""
    threads = [accumulator(pen, name) for name in pen.names(pen.pick((0, 0, 1, 1, 2, 3)))]
    threads += [[[simple_statement(pen)]] for _ in range(number)]
    if len(threads) > 1 and pen.chance(0.6):
        # Set up together at the top, so that several are alive when the first is used.
        top = [thread.pop(0) for thread in threads if len(thread) > 1]
    else:
        top = []
    merged = top
    while threads:
        thread = pen.pick(threads)
        merged.append(thread.pop(0))
        if not thread:
            threads.remove(thread)
    return merged


def nest(pen: Pen, statements: list[Lines], depth: int) -> Lines:
    """The statements one after another, some runs of them inside loops and other blocks."""
    if depth <= 0 or not statements or pen.chance(0.15):
        return [line for lines in statements for line in lines]
    low = pen.between(0, len(statements) - 1)
    high = pen.between(low + 1, min(len(statements), low + 3))
    inner = nest(pen, statements[low:high], depth - 1)
    before = nest(pen, statements[:low], depth - 1) if pen.chance(0.3) else _flat(statements[:low])
    after = nest(pen, statements[high:], depth) if high < len(statements) else []
    return before + block(pen, inner) + after


def _flat(statements: list[Lines]) -> Lines:
    return [line for lines in statements for line in lines]


def block(pen: Pen, inner: Lines) -> Lines:
    """A compound statement around some lines."""
    draw = pen.random()
    if draw < 0.2:
        return [for_header(pen), *indent(inner)]
    if draw < 0.5:
        return [f"while {condition(pen)}:", *indent(inner)]
    if draw < 0.74:
        return if_block(pen, inner)
    if draw < 0.95:
        return file_block(pen, inner) if pen.chance(0.2) else [with_header(pen), *indent(inner)]
    return try_block(pen, inner)


def for_header(pen: Pen) -> str:
    """``for a in ...:``"""
    targets = ", ".join(pen.names(pen.pick((1, 1, 1, 1, 2, 3))))
    draw = pen.random()
    if draw < 0.3:
        over = chain(pen)
    elif draw < 0.45:
        targets, over = pen.name(), f"range({brief(pen)})"
    elif draw < 0.6:
        targets, over = ", ".join(pen.names(2)), f"enumerate({brief(pen)})"
    elif draw < 0.7:
        targets, over = ", ".join(pen.names(2)), f"{chain(pen)}.items()"
    else:
        over = brief(pen)
    return f"{'async ' if pen.chance(0.1) else ''}for {targets} in {over}:"


def with_header(pen: Pen) -> str:
    """``with ... as a:``, sometimes asynchronous, now and then without a name."""
    text = f"{'async ' if pen.chance(0.4) else ''}with {opening(pen)}"
    return f"{text}:" if pen.chance(0.06) else f"{text} as {pen.name()}:"


def file_block(pen: Pen, inner: Lines) -> Lines:
    """A file opened for what is then done with it."""
    path, handle = chain(pen), pen.name()
    if pen.chance(0.5):
        mode, use = "r", f"{pen.name()} = {handle}.read()"
    else:
        mode, use = "w", f"{handle}.write({atom(pen)})"
    quote = pen.quote()
    header = f"with open({path}, {quote}{mode}{quote}) as {handle}:"
    return [header, *indent([use, *inner] if pen.chance(0.7) else [*inner, use])]


def if_block(pen: Pen, inner: Lines) -> Lines:
    """An ``if``, perhaps with ``elif`` and ``else``."""
    tests = (
        equals_test,
        equals_test,
        equals_test,
        condition,
        _constant_test,
        lambda p: comparison(p, 0),
    )
    lines = [f"if {pen.pick(tests)(pen)}:", *indent(inner)]
    for _ in range(pen.pick((0, 0, 0, 1, 2))):
        lines += [f"elif {pen.pick(tests)(pen)}:", *indent([simple_statement(pen)])]
    if pen.chance(0.35):
        lines += ["else:", *indent([simple_statement(pen)])]
    return lines


def _constant_test(pen: Pen) -> str:
    return f"{chain(pen)} == {pen.pick(('True', 'False', 'None'))}"


def try_block(pen: Pen, inner: Lines) -> Lines:
    """A ``try`` with ``except`` or ``finally``."""
    lines = ["try:", *indent(inner)]
    if pen.chance(0.2):
        return [*lines, "finally:", *indent([simple_statement(pen)])]
    name = f" as {pen.name()}" if pen.chance(0.5) else ""
    return [*lines, f"except {pen.title()}Error{name}:", *indent([simple_statement(pen)])]


def parameters(pen: Pen, names: list[str], *, method: bool) -> str:
    """Names as parameters, the last ones sometimes with a default."""
    required = len(names) - min(len(names), pen.pick((0, 0, 0, 1, 1, 2)))
    parts = ["self"] if method else []
    parts += names[:required]
    parts += [f"{name}={pen.pick(('None', 'None', atom(pen)))}" for name in names[required:]]
    if pen.chance(0.06):
        parts.append(pen.pick(("*rest", "**extra")))
    return ", ".join(parts)


def function(pen: Pen, depth: int, *, method: bool = False) -> Lines:
    """A function, sometimes asynchronous or decorated, sometimes with one inside."""
    names = pen.names(pen.between(0, 4))
    arguments = parameters(pen, names, method=method)
    header = f"{'async ' if pen.chance(0.3) else ''}def {pen.name()}({arguments}):"
    body = history(pen, pen.between(1, 5))
    if pen.chance(0.15):
        body.insert(pen.between(0, len(body)), function(pen, depth - 1) if depth > 0 else ["pass"])
    decorator = [f"@{chain(pen)}"] if pen.chance(0.08) else []
    return [*decorator, header, *indent(nest(pen, body, depth))]


def initialiser(pen: Pen) -> Lines:
    """``__init__`` that keeps its arguments, in their order or another."""
    names = pen.names(pen.between(1, 6))
    method = "__init__" if pen.chance(0.85) else pen.name()
    header = f"def {method}({parameters(pen, names, method=True)}):"
    fields = [name for name in names if pen.chance(0.93)] or names
    if pen.chance(0.5):
        pen.rng.shuffle(fields)
    lines = []
    if pen.chance(0.15):
        lines.append(f"super().__init__({', '.join(names[:1])})")
    for field in fields:
        prefix = "_" if pen.chance(0.04) else ""
        lines.append(f"self.{prefix}{field} = {field}")
        if pen.chance(0.12):
            value = pen.pick(("[]", "{}", "None", "0", "set()", '""', call(pen, 1)))
            lines.append(f"self.{pen.name()} = {value}")
    return [header, *indent(lines)]


def class_(pen: Pen) -> Lines:
    """A class with an initialiser and a method or two."""
    parent = f"({pen.title()})" if pen.chance(0.4) else ""
    lines = initialiser(pen)
    for _ in range(pen.pick((0, 0, 0, 1, 1, 2))):
        lines += function(pen, 1, method=True)
    return [f"class {pen.title()}{parent}:", *indent(lines)]


def snippet(pen: Pen) -> Lines:
    """A class, a function, an import or loose statements."""
    draw = pen.random()
    if draw < 0.27:
        return class_(pen)
    if draw < 0.67:
        return function(pen, pen.between(0, 3))
    if draw < 0.85:
        return nest(pen, history(pen, pen.between(1, 4)), pen.between(0, 2))
    return [simple_statement(pen) for _ in range(pen.between(1, 3))]
