"""Frozen dataclasses, such as methods and their objectives, as JSON and back."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from typing import Any


def class_path(cls: type) -> str:
    """A class's module and name, with dots."""
    return f"{cls.__module__}.{cls.__qualname__}"


def to_json(value: Any) -> Any:
    """A value as JSON: dataclasses by their class and fields, sequences as lists.

    Raises:
        ValueError: for anything that cannot be read back.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if _is_frozen(type(value)):
        own = {f.name: to_json(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"class": class_path(type(value)), "fields": own}
    raise ValueError(
        f"cannot write down {value!r}: expected numbers, strings, sequences, and frozen "
        "dataclasses whose fields are such values."
    )


def from_json(value: Any) -> Any:
    """What `to_json` wrote; sequences come back as tuples.

    Nothing is imported: a class must have been imported before, so that a file cannot choose what
    code runs.

    Raises:
        ValueError: when a class is not imported, is no frozen dataclass, or has other fields now.
    """
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    return make(_imported(value["class"]), value["fields"])


def make(cls: type, values: dict[str, Any]) -> Any:
    """A dataclass of fields as `to_json` wrote them.

    Raises:
        ValueError: when the class has other fields now, or refuses a value.
    """
    try:
        return cls(**{name: from_json(item) for name, item in values.items()})
    except TypeError as error:
        raise ValueError(
            f"{class_path(cls)} does not take the fields {', '.join(values)} ({error}); it was "
            "written by another version of it."
        ) from error


def _imported(path: str) -> type:
    parts = path.split(".")
    for n in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:n]))
        for name in parts[n:]:
            found = getattr(found, name, None)
        if isinstance(found, type) and _is_frozen(found):
            return found
    raise ValueError(f"no frozen dataclass {path} is imported: import the module that defines it.")


def _is_frozen(cls: type) -> bool:
    return is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
