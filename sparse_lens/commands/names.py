"""What the flags of a command name: looked up, and made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import TypeVar

Value = TypeVar("Value")


def named(what: str, known: Mapping[str, Value], name: str) -> Value:
    """What has a name.

    Args:
        what: for the error message, such as "method".

    Raises:
        ValueError: for an unknown name, with those that there are and the nearest of them.
    """
    if name in known:
        return known[name]
    nearest = get_close_matches(name, known, n=1)
    suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"no {what} {name!r}; there are {', '.join(known)}.{suggestion}")


def made(what: str, classes: Mapping[str, type[Value]], name: str) -> Value:
    """An object of the class that has a name, with its fields at their defaults.

    Raises:
        ValueError: for an unknown name, or a class with fields that have no default.
    """
    cls = named(what, classes, name)
    required = _required_fields(cls)
    if required:
        raise ValueError(
            f"{what} {name!r} must be given {', '.join(required)}, which has no default: make "
            f"{cls.__name__}(...) in Python."
        )
    return cls()


def _required_fields(cls: type) -> list[str]:
    """The names of a dataclass's fields that have no default; none for another class."""
    return [
        field.name
        for field in (fields(cls) if is_dataclass(cls) else ())
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]
