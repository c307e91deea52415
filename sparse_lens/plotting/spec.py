"""Figures as plain values: plotly's figure objects validate every number, which is slow."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]
"""`data` and `layout` of a plotly figure, as `plotly.graph_objects.Figure` takes them."""


def scatter(**fields: Any) -> dict[str, Any]:
    """A trace of lines, marks or text."""
    return {"type": "scatter", **fields}
