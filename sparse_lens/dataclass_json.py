"""Frozen dataclasses, such as methods and their objectives, to JSON and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

Store = Callable[[Any], Any]
"""Stores a value outside the JSON and returns a JSON reference to it; None for other values."""

Fetch = Callable[[Any], Any]
"""Returns the value that a `Store` stored, given its reference."""


def class_path(cls: type) -> str:
    """A class's module and name, with dots."""
    return f"{cls.__module__}.{cls.__qualname__}"


def to_json(value: Any, store: Store | None = None) -> Any:
    """A value as JSON: dataclasses by their class and fields, sequences as lists.

    Args:
        store: called with every value first.

    Raises:
        ValueError: for a value that could not be read back.
    """
    reference = None if store is None else store(value)
    if reference is not None:
        return {"stored": reference}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [to_json(item, store) for item in value]
    if _is_frozen(type(value)):
        values = {f.name: to_json(getattr(value, f.name), store) for f in fields(value) if f.init}
        return {"class": class_path(type(value)), "fields": values}
    raise ValueError(
        f"cannot write down {value!r}: expected numbers, strings, sequences, and frozen "
        "dataclasses whose fields are such values."
    )


def from_json(value: Any, fetch: Fetch | None = None) -> Any:
    """The value that `to_json` wrote; sequences become tuples.

    Classes must have been imported before: nothing is imported here, so that a file cannot choose
    which code runs.

    Raises:
        ValueError: when a class is not imported, is not a frozen dataclass, or has other fields
            now; or when a value was stored outside and `fetch` is None.
    """
    if isinstance(value, list):
        return tuple(from_json(item, fetch) for item in value)
    if not isinstance(value, dict):
        return value
    if "stored" in value:
        if fetch is None:
            raise ValueError(f"a value was stored elsewhere: {value['stored']}.")
        return fetch(value["stored"])
    return make(_imported(value["class"]), value["fields"], fetch)


def make(cls: type, values: dict[str, Any], fetch: Fetch | None = None) -> Any:
    """A dataclass from its fields as `to_json` wrote them.

    Raises:
        ValueError: when the class has other fields now, or refuses a value.
    """
    try:
        return cls(**{name: from_json(item, fetch) for name, item in values.items()})
    except TypeError as error:
        raise ValueError(
            f"{class_path(cls)} does not take the fields {', '.join(values)} ({error}); it was "
            "written by another version of it."
        ) from error


def _imported(path: str) -> type:
    """The frozen dataclass of a path that `class_path` returned."""
    names = path.split(".")
    # Where the module's name ends is not marked: a class can be nested in another.
    for n_module in range(len(names) - 1, 0, -1):
        value: Any = sys.modules.get(".".join(names[:n_module]))
        for name in names[n_module:]:
            value = getattr(value, name, None)
        if isinstance(value, type) and _is_frozen(value):
            return value
    raise ValueError(f"no frozen dataclass {path} is imported: import the module that defines it.")


def _is_frozen(cls: type) -> bool:
    return is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
