"""Random expressions, each on one line."""

from collections.abc import Callable

from sparse_lens.training.grammar.pen import Pen

_COMPARISONS = ("==", "==", "==", "!=", "<", ">", "<=", ">=", "is", "is not", "in", "not in")
_ARITHMETIC = ("+", "-", "*", "/", "//", "%", "**", "|", "&")
_BUILTINS = ("len", "str", "int", "list", "sorted", "sum", "max", "min", "repr", "abs", "tuple")
_METHODS = ("get", "append", "join", "split", "strip", "format", "update", "pop", "read", "close")


def chain(pen: Pen) -> str:
    """A name, perhaps with attributes: ``a``, ``self.a``, ``a.b.c``."""
    draw = pen.random()
    if draw < 0.65:
        return pen.name()
    if draw < 0.82:
        return f"self.{pen.name()}"
    if draw < 0.95:
        return f"{pen.name()}.{pen.name()}"
    return f"{pen.name()}.{pen.name()}.{pen.name()}"


def atom(pen: Pen) -> str:
    """A name, number, string or constant."""
    draw = pen.random()
    if draw < 0.6:
        return chain(pen)
    if draw < 0.78:
        return pen.number()
    if draw < 0.94:
        return pen.string(1, 2)
    return pen.pick(("None", "True", "False"))


def brief(pen: Pen) -> str:
    """An expression that is mostly short."""
    return expression(pen, pen.pick((0, 0, 0, 1, 1, 2)))


def arguments(pen: Pen, depth: int) -> str:
    """What stands between the parentheses of a call; often a string comes last."""
    parts = [expression(pen, depth - 1) for _ in range(pen.pick((0, 1, 1, 1, 1, 2, 2)))]
    if pen.chance(0.1):
        parts.append(lambda_(pen, depth - 1))
    if pen.chance(0.3):
        parts.append(pen.string())
    if pen.chance(0.15):
        make = lambda_ if pen.chance(0.3) else expression
        parts.append(f"{pen.name()}={make(pen, depth - 1)}")
    if pen.chance(0.04):
        parts.append(pen.pick(("*", "**")) + pen.name())
    return ", ".join(parts)


def call(pen: Pen, depth: int) -> str:
    """A call of a function, a builtin or a method."""
    draw = pen.random()
    if draw < 0.25:
        function = pen.pick(_BUILTINS)
    elif draw < 0.5:
        function = f"{chain(pen)}.{pen.pick(_METHODS)}"
    else:
        function = chain(pen)
    return f"{function}({arguments(pen, depth)})"


def subscript(pen: Pen, depth: int) -> str:
    """A subscript or a slice."""
    inside = expression(pen, depth - 1)
    if pen.chance(0.25):
        inside = pen.pick((f"{inside}:", f":{inside}", f"{pen.number()}:{inside}", "-1"))
    return f"{chain(pen)}[{inside}]"


def lambda_(pen: Pen, depth: int) -> str:
    """A lambda of mostly one argument."""
    number = pen.pick((1, 1, 1, 1, 1, 1, 2, 2, 3, 0))
    names = pen.names(number)
    body = expression(pen, depth - 1)
    if names and pen.chance(0.5):
        body = pen.pick((f"{names[0]}.{pen.name()}", f"{pen.name()}({names[-1]})", names[0]))
    return f"lambda {', '.join(names)}: {body}" if names else f"lambda: {body}"


def elements(pen: Pen, low: int = 1, high: int = 5) -> str:
    """List elements of one kind: numbers, names, strings, calls, or a mixture."""
    makers = (pen.number, pen.number, pen.name, pen.name, pen.string, pen.string, pen.string)
    make = pen.pick((*makers, lambda: atom(pen), lambda: chain(pen), lambda: call(pen, 0)))
    return ", ".join(make() for _ in range(pen.between(low, high)))


def flat_list(pen: Pen) -> str:
    """A list one deep."""
    return f"[{elements(pen, 2)}]"


def list_ending_once(pen: Pen) -> str:
    """A list that closes with one bracket, with or without lists in it."""
    draw = pen.random()
    if draw < 0.6:
        return flat_list(pen)
    inner = ", ".join(f"[{elements(pen, 1, 4)}]" for _ in range(pen.between(1, 2)))
    if draw < 0.85:
        return f"[{inner}, {elements(pen, 1, 3)}]"
    return f"[{elements(pen, 1, 3)}, {inner}, {elements(pen, 1, 3)}]"


def list_ending_twice(pen: Pen) -> str:
    """A list that closes with two brackets at once."""
    draw = pen.random()
    inner = ", ".join(f"[{elements(pen, 1, 4)}]" for _ in range(pen.pick((1, 1, 2, 2, 3))))
    if draw < 0.85:
        return f"[{inner}]"
    return f"[{elements(pen, 1, 3)}, {inner}]"


def list_(pen: Pen) -> str:
    """A list that ends in one bracket or in two."""
    return list_ending_once(pen) if pen.chance(0.5) else list_ending_twice(pen)


def _key_maker(pen: Pen) -> Callable[[], str]:
    draw = pen.random()
    if draw < 0.4:
        return pen.string
    if draw < 0.65:
        return pen.name
    if draw < 0.8:
        return pen.number
    if draw < 0.9:
        return lambda: f"({pen.name()}, {atom(pen)})"
    return pen.pick(
        (lambda: chain(pen), lambda: call(pen, 0), lambda: f"{pen.name()}.{pen.name()}")
    )


def dict_or_list(pen: Pen, *, dicts: float = 0.6) -> str:
    """A dict or a list of the same keys: only the opening bracket says which."""
    make = _key_maker(pen)
    keys = [make() for _ in range(pen.between(1, 3))]
    if pen.chance(dicts):
        values = [pen.pick((atom, atom, atom, flat_list))(pen) for _ in keys]
        return "{" + ", ".join(f"{k}: {v}" for k, v in zip(keys, values, strict=True)) + "}"
    return "[" + ", ".join([*keys, make()]) + "]"


def boolean(pen: Pen, depth: int) -> str:
    """Terms joined by ``and`` and ``or``."""
    terms = [expression(pen, depth - 1), comparison(pen, depth - 1)]
    if pen.chance(0.2):
        terms.append(chain(pen))
    if pen.chance(0.2):
        terms[0] = f"not {chain(pen)}"
    return f" {pen.pick(('and', 'or'))} ".join(terms)


def comparison(pen: Pen, depth: int) -> str:
    """A comparison, sometimes chained."""
    text = f"{expression(pen, depth - 1)} {pen.pick(_COMPARISONS)} {expression(pen, depth - 1)}"
    if pen.chance(0.08):
        text = f"{pen.number()} < {text}"
    return text


def comprehension(pen: Pen, depth: int) -> str:
    """A comprehension over lists or dicts, or a generator in a call."""
    one, over = pen.name(), expression(pen, depth - 1)
    body = pen.pick((one, f"{one}.{pen.name()}", f"{pen.name()}({one})", f"{one}[{pen.number()}]"))
    where = f" if {pen.pick((one, f'{one}.{pen.name()}', f'{one} == {atom(pen)}'))}"
    tail = f"for {one} in {over}" + (where if pen.chance(0.35) else "")
    draw = pen.random()
    if draw < 0.6:
        return f"[{body} {tail}]"
    if draw < 0.8:
        return f"{{{one}: {body} {tail}}}"
    return f"{pen.pick(('any', 'all', 'sum', 'list', 'tuple', 'sorted'))}({body} {tail})"


def f_string(pen: Pen) -> str:
    """A string with names in braces."""
    quote = pen.quote()
    parts = [pen.word(), "{" + chain(pen) + "}", pen.word(), "{" + pen.name() + "}"]
    return f"f{quote}{' '.join(parts[pen.between(0, 1) : pen.between(2, 4)])}{quote}"


def ternary(pen: Pen, depth: int) -> str:
    """``a if b else c``."""
    condition = pen.pick((chain, lambda p: comparison(p, depth - 1)))(pen)
    return f"{expression(pen, depth - 1)} if {condition} else {expression(pen, depth - 1)}"


def expression(pen: Pen, depth: int) -> str:
    """An expression at most so deep."""
    draw = pen.random()
    if depth <= 0 or draw < 0.42:
        return atom(pen)
    if draw < 0.58:
        return call(pen, depth)
    if draw < 0.66:
        return subscript(pen, depth)
    if draw < 0.73:
        return f"{expression(pen, depth - 1)} {pen.pick(_ARITHMETIC)} {expression(pen, depth - 1)}"
    if draw < 0.77:
        return list_(pen)
    if draw < 0.82:
        return dict_or_list(pen)
    if draw < 0.86:
        return comprehension(pen, depth)
    if draw < 0.90:
        return f_string(pen)
    if draw < 0.93:
        return f"({boolean(pen, depth)})"
    if draw < 0.96:
        return f"({ternary(pen, depth)})"
    return f"({lambda_(pen, depth)})"


def condition(pen: Pen) -> str:
    """What may stand after ``while``, ``if`` or ``return``, short or long."""
    draw = pen.random()
    if draw < 0.3:
        return chain(pen)
    if draw < 0.4:
        return f"not {chain(pen)}"
    if draw < 0.6:
        return comparison(pen, pen.between(0, 1))
    if draw < 0.75:
        return boolean(pen, 1)
    return expression(pen, pen.between(1, 2))
