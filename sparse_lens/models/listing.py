"""The table of models that `sparse-lens models` prints."""

from collections.abc import Sequence

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from sparse_lens.models.released import SWEEP
from sparse_lens.models.zoo import ModelEntry

_COLOURS = {"embedded": "green", "cached": "cyan", "available": "default", "unavailable": "red"}


def models_table(entries: Sequence[ModelEntry], *, full: bool = False) -> Table:
    """A row for each model; unless `full`, models of the sweep that are not cached share a row."""
    table = Table("name", "status", "size", "description", title="Models")
    folded = []
    for entry in entries:
        if not full and entry.name.startswith(SWEEP) and entry.status == "available":
            folded.append(entry)
            continue
        size = "" if entry.size is None else decimal(entry.size)
        status = f"[{_COLOURS[entry.status]}]{entry.status}[/]"
        table.add_row(entry.name, status, size, escape(entry.description))
    if folded:
        table.add_row(
            f"{SWEEP}_*",
            "available",
            "",
            f"{len(folded)} sparse models of the sweep over sizes and sparsities; --all lists them",
        )
    table.columns[0].no_wrap = True
    table.columns[2].justify = "right"
    return table
