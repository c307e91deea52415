"""`sparse-lens methods`: what there is to compare, and what can be set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from sparse_lens.method import Method, registry


def describe_methods() -> Group:
    """Of each installed method its registered name, what it does, its fields with defaults."""
    return describe(registry())


def describe(methods: Mapping[str, type[Method]]) -> Group:
    """The same of some methods, by name."""
    parts: list[RenderableType] = []
    for name, cls in methods.items():
        own = "\n".join(_field(f) for f in fields(cls))
        parts += [
            Text(name, style="bold"),
            Padding(Text(_first_line(cls)), (0, 0, 0, 2)),
            Padding(Text(own, style="dim"), (0, 0, 1, 4)),
        ]
    return Group(*parts, Text("Set a field with: sparse-lens compare --set NAME.FIELD=VALUE"))


def _first_line(cls: type[Method]) -> str:
    text = (cls.__doc__ or "").strip()
    # A dataclass without a docstring has been given its signature.
    return "" if text.startswith(f"{cls.__name__}(") else text.partition("\n")[0]


def _field(field: Field[object]) -> str:
    if field.default is not MISSING:
        return f"{field.name} = {field.default!r}"
    if field.default_factory is not MISSING:
        return f"{field.name} = {field.default_factory()!r}"
    return f"{field.name}, which must be given"
