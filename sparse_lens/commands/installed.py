"""`sparse-lens methods` and `sparse-lens questions`: what is installed, and what can be set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from sparse_lens.evals.question import registry as question_registry
from sparse_lens.method import registry as method_registry


def describe_methods() -> Group:
    """The registered name, summary and fields with defaults of each installed method."""
    return describe(method_registry())


def describe_questions() -> Group:
    """The registered name, summary and fields with defaults of each installed question."""
    return describe(question_registry())


def describe(classes: Mapping[str, type[Any]]) -> Group:
    """The name, summary and fields of dataclasses by name."""
    parts: list[RenderableType] = []
    for name, cls in classes.items():
        parts += [Text(name, style="bold"), Padding(Text(_first_line(cls)), (0, 0, 0, 2))]
        if fields(cls):
            field_lines = "\n".join(map(_field, fields(cls)))
            parts.append(Padding(Text(field_lines, style="dim"), (0, 0, 0, 4)))
        parts.append(Text())
    return Group(*parts, Text("Set a field with: sparse-lens compare --set NAME.FIELD=VALUE"))


def _first_line(cls: type[Any]) -> str:
    text = (cls.__doc__ or "").strip()
    # A dataclass without a docstring has been given its signature.
    return "" if text.startswith(f"{cls.__name__}(") else text.partition("\n")[0]


def _field(field: Field[Any]) -> str:
    default = _default(field)
    if default is MISSING:
        return f"{field.name}, which must be given"
    return f"{field.name} = {_short(default)}"


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _short(value: Any) -> str:
    """The value as code; a dataclass with all fields at their defaults is written without them."""
    if is_dataclass(value) and all(getattr(value, f.name) == _default(f) for f in fields(value)):
        return f"{type(value).__name__}()"
    return repr(value)
