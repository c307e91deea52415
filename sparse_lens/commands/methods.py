"""`sparse-lens methods`: what there is to compare, and what can be set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields

from rich.markup import escape
from rich.table import Table

from sparse_lens.method import Method, registry


def methods_table() -> Table:
    """One row a method: its registered name, what it does, its fields with their defaults."""
    return table_of(registry())


def table_of(methods: Mapping[str, type[Method]]) -> Table:
    """The same of some methods, by name."""
    table = Table("name", "what it does", "fields (--set NAME.FIELD=VALUE)", title="Methods")
    table.show_lines = True
    for name, cls in methods.items():
        own = "\n".join(_field(f) for f in fields(cls))
        table.add_row(escape(name), escape(_first_line(cls)), escape(own))
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    return table


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
