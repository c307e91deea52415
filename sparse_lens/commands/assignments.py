"""`--set NAME.FIELD=VALUE`: a field of a method or a question, from text."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from sparse_lens.ablation import Ablation
from sparse_lens.ablation import registry as ablation_registry
from sparse_lens.commands.names import made, named
from sparse_lens.method import Method
from sparse_lens.method import registry as method_registry
from sparse_lens.objectives import OBJECTIVES, Objective


def assign(assignment: str, methods: dict[str, Any], questions: dict[str, Any]) -> None:
    """Replace the method or the question whose field is set.

    Raises:
        ValueError: for what is not NAME.FIELD=VALUE, an unknown name or field, or a value that the
            field does not take.
    """
    name, field, text = split_assignment(assignment)
    current = named("method or question in this comparison", {**methods, **questions}, name)
    check_field(name, current, field)
    group = methods if name in methods else questions
    if field == "target" and name in methods:
        raise ValueError(
            f"--set {assignment}: one target is for all methods, by --target-loss, --target-kl and "
            "--under."
        )
    value = _value(assignment, current, field, text)
    try:
        group[name] = replace(current, **{field: value})
    except TypeError as error:  # a check that compares what cannot be compared
        raise ValueError(f"--set {assignment!r}: {error}.") from error


def split_assignment(assignment: str) -> tuple[str, str, str]:
    """Name, field and value of an assignment.

    Raises:
        ValueError: for what is not one.
    """
    target, equals, text = assignment.partition("=")
    name, dot, field = target.partition(".")
    if not (equals and dot):
        raise ValueError(
            f"--set takes NAME.FIELD=VALUE, as in node-pruning.k_coef=1e-3; got {assignment!r}."
        )
    return name, field, text


def check_field(name: str, value: Any, field: str) -> None:
    """Check that a method or a question has a field.

    Raises:
        ValueError: naming those that it has.
    """
    known = [f.name for f in dataclasses.fields(value)]
    if field not in known:
        raise ValueError(f"{name} has no field {field!r}; it has {', '.join(known)}.")


@dataclass(frozen=True)
class _Kind:
    """Objects that a field can hold, which are given by name."""

    noun: str
    base_class: type
    by_name: Mapping[str, type]


def _kinds() -> tuple[_Kind, ...]:
    return (
        _Kind("objective", Objective, OBJECTIVES),
        _Kind("ablation", Ablation, ablation_registry()),
        _Kind("method", Method, method_registry()),
    )


def _value(assignment: str, owner: Any, field: str, text: str) -> Any:
    """An object by its name where the field holds one, else a literal."""
    current = getattr(owner, field, None)
    types = tuple(_types(owner, field))
    kinds = [
        kind
        for kind in _kinds()
        if isinstance(current, kind.base_class)
        or any(issubclass(each, kind.base_class) for each in types)
    ]
    if not kinds:
        return _literal(assignment, text, current)
    if text == "None" and (current is None or NoneType in types):
        return None
    by_name = {name: cls for kind in kinds for name, cls in kind.by_name.items()}
    nouns = " or ".join(kind.noun for kind in kinds)
    return made(f"{nouns} for {assignment.partition('=')[0]}", by_name, text)


def _types(owner: Any, field: str) -> Iterator[type]:
    """The classes in the annotation of a field, each of a union's; none where it has no meaning.

    An annotation may name what only type checkers import.
    """
    try:
        annotation = get_type_hints(type(owner)).get(field)
    except NameError:
        return
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and not get_args(each):
            yield each


def _literal(assignment: str, text: str, current: Any) -> Any:
    """A literal; where the field holds a string now, also a bare word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if isinstance(current, str):
            return text
        raise ValueError(
            f"--set {assignment!r}: {text!r} is not a number, True, False, None, a quoted string "
            "or a tuple of these."
        ) from None
