"""The share of nodes that circuits of different tasks have in common, as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from sparse_lens.plotting.spec import Spec
from sparse_lens.plotting.theme import POSITIVE

_ROW_HEIGHT = 26
"""Pixels."""


def overlaps_spec(
    tasks: Sequence[str], shares: Mapping[tuple[str, str], tuple[float, float]]
) -> Spec:
    """A cell for each pair of tasks, below the diagonal.

    Args:
        shares: by pair of tasks its overlap, from 0 to 1, and the overlap expected by chance.
    """
    # Without the first row and the last column, which would be empty.
    rows, columns = tasks[1:], tasks[:-1]
    cells = {(a, b): share for pair, share in shares.items() for a, b in (pair, pair[::-1])}
    table = [
        [cells.get((row, column)) if i >= j else None for j, column in enumerate(columns)]
        for i, row in enumerate(rows)
    ]
    red, green, blue = (int(POSITIVE[i : i + 2], 16) for i in (1, 3, 5))
    names = [escape(task) for task in tasks]
    heat = {
        "type": "heatmap",
        "x": names[:-1],
        "y": names[1:],
        "z": [[None if cell is None else cell[0] for cell in row] for row in table],
        "text": [["" if cell is None else f"{cell[0]:.2f}" for cell in row] for row in table],
        "customdata": [[None if cell is None else cell[1] for cell in row] for row in table],
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "hovertemplate": "%{y} and %{x}: %{z:.3f}; by chance %{customdata:.3f}<extra></extra>",
        "hoverongaps": False,
        "zmin": 0,
        "zmax": 1,
        # From transparent to not quite opaque: numbers stay legible on light and dark ground.
        "colorscale": [
            [0, f"rgba({red},{green},{blue},0)"],
            [1, f"rgba({red},{green},{blue},0.6)"],
        ],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "meta": {"role": "overlaps"},
    }
    layout = {
        "height": max(160, len(rows) * _ROW_HEIGHT + 130),
        "margin": {"l": 110, "r": 12, "t": 8, "b": 100},
        "xaxis": {"showgrid": False, "tickangle": -35, "type": "category"},
        "yaxis": {"showgrid": False, "autorange": "reversed", "type": "category"},
    }
    return {"data": [heat], "layout": layout}
