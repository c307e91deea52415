"""Checks of the lists that a comparison is given, and the labels of methods and questions."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Value = TypeVar("Value")


def check_list(name: str, values: object) -> None:
    """Check that an argument is a list or a mapping, not a single value.

    Raises:
        ValueError: naming the argument.
    """
    if isinstance(values, str):
        raise ValueError(f"{name} must be a list, got the string {values!r}; pass [{values!r}].")
    if not isinstance(values, (Sequence, Mapping)):
        raise ValueError(f"{name} must be a list, got {type(values).__name__}; pass [it].")


def check_objects(name: str, values: object, kind: type, example: str) -> None:
    """Check that a list holds objects of one kind, such as methods or questions.

    Raises:
        ValueError: naming the argument, the wrong value, and where to find the installed ones.
    """
    check_list(name, values)
    for value in values.values() if isinstance(values, Mapping) else values:  # type: ignore[attr-defined]
        if not isinstance(value, kind):
            raise ValueError(
                f"{name} are objects such as {example}, got {value!r}; those that are installed "
                f"are in {kind.__module__}.registry(), by name."
            )


def labelled(
    what: str,
    values: Sequence[Value] | Mapping[str, Value],
    registry: Callable[[], Mapping[str, type[Value]]],
) -> dict[str, Value]:
    """Methods or questions by label: the user's own, else the class's registered name.

    If a class occurs more than once, its label includes the fields that differ from the defaults.

    Args:
        what: for the error message, such as "methods".
        registry: returns the installed classes by name.

    Raises:
        ValueError: when two have the same label.
    """
    if isinstance(values, Mapping):
        return dict(values)
    names = {cls: name for name, cls in registry().items()}
    plain = [names.get(type(value), type(value).__name__) for value in values]
    counts = Counter(plain)
    labels = [
        name if counts[name] == 1 else " ".join([name, *_changed_fields(value)])
        for name, value in zip(plain, values, strict=True)
    ]
    refuse_duplicates(what, labels)
    return dict(zip(labels, values, strict=True))


def setting_of(label: str) -> str:
    """What tells a label of `labelled` from another of the same class: ` (draws=2)`, or nothing."""
    setting = label.partition(" ")[2]
    return f" ({setting})" if setting else ""


def refuse_duplicates(what: str, labels: Sequence[str]) -> None:
    """Check that all labels are different.

    Raises:
        ValueError: naming the labels that occur more than once.
    """
    duplicates = sorted(label for label, count in Counter(labels).items() if count > 1)
    if duplicates:
        raise ValueError(
            f"{what} must differ, got {duplicates} more than once; their results could not be told "
            "apart."
        )


def _changed_fields(value: Any) -> list[str]:
    """Fields that differ from their defaults, as `name=value`."""
    return [
        f"{f.name}={getattr(value, f.name)}"
        for f in dataclasses.fields(value)
        if getattr(value, f.name) != _default(f)
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is dataclasses.MISSING:
        return field.default
    return field.default_factory()
