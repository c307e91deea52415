"""Circuits' sizes task by task, with their losses and the controls beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sparse_lens.plotting.curves import FLOOR, MARK_NAMES
from sparse_lens.plotting.spec import Spec, scatter
from sparse_lens.plotting.theme import NEUTRAL, SERIES


@dataclass(frozen=True)
class SizeRow:
    """A model's circuits for one task."""

    model: str
    colour: int
    """Number in the palette."""

    edges: Sequence[int | float]
    """Of each seed's circuit."""

    met: Sequence[bool]
    """Whether each met the target; else its edges are the full graph's."""

    losses: Mapping[str, float]
    """Two-way loss in nats by `chosen`, `full`, `empty`, `random` and `ablated`."""

    note: str = ""
    """Beside the edges, as the ratio to another model."""


LOSS_NAMES = {**MARK_NAMES, "ablated": "circuit ablated, the rest kept"}

_LOOKS: Mapping[str, Mapping[str, Any]] = {
    "chosen": {"symbol": "circle", "size": 11},
    "full": {"symbol": "triangle-up-open", "size": 10, "line": {"width": 2}},
    "random": {"symbol": "x-thin-open", "size": 8, "line": {"width": 2}},
    "empty": {"symbol": "circle-open", "size": 10, "line": {"width": 2}},
    "ablated": {"symbol": "diamond-open", "size": 10, "line": {"width": 2}},
}
UNMET = "target not met: the full graph's edges"
_ROW = 20

Placed = Sequence[tuple[float, SizeRow]]
"""Rows with their places from the top."""


def sizes_spec(tasks: Mapping[str, Sequence[SizeRow]], *, target_loss: float | None = None) -> Spec:
    """Edges of the chosen circuits, task by task; beside them their losses and the controls'.

    An unmet target is a hollow mark at the full graph's edges; no edges stand at 1.

    Args:
        target_loss: drawn as an upright line.
    """
    placed: list[tuple[float, SizeRow]] = []
    names: list[tuple[float, str]] = []
    place = 0.0
    for task, rows in tasks.items():
        names.append((place, task))
        placed += [(place + i, row) for i, row in enumerate(rows, start=1)]
        place += len(rows) + 1.4
    layout = _frame(placed, names, place)
    if target_loss is not None:
        dashed = {"color": NEUTRAL, "width": 1, "dash": "dash"}
        ends = {"x0": target_loss, "x1": target_loss, "y0": 0, "y1": 1}
        layout["shapes"] = [{"type": "line", "xref": "x2", "yref": "paper", "line": dashed, **ends}]
    data = [_lines(placed), *_sizes(placed), _notes(placed), *_losses(placed), *_legend(placed)]
    return {"data": data, "layout": layout}


def _frame(placed: Placed, names: Sequence[tuple[float, str]], stop: float) -> dict[str, Any]:
    log = {"type": "log", "dtick": 1, "side": "top"}
    return {
        "height": round(stop * _ROW + 110),
        "margin": {"l": 120, "r": 16, "t": 56, "b": 48},
        "hovermode": "closest",
        "xaxis": {
            **log,
            "tickformat": "~s",
            "domain": [0, 0.49],
            "title": {"text": "edges of the circuit"},
        },
        "xaxis2": {
            **log,
            "tickformat": "~g",
            "domain": [0.57, 1],
            "title": {"text": "two-way loss, nats a prompt"},
        },
        "yaxis": {
            "tickmode": "array",
            "tickvals": [place for place, _ in placed],
            "ticktext": [escape(row.model) for _, row in placed],
            "range": [stop - 0.4, -0.7],
            "showgrid": False,
            "zeroline": False,
        },
        "legend": {"orientation": "h", "x": 0, "y": 0, "yanchor": "top"},
        "annotations": [
            {
                "text": f"<b>{escape(task)}</b>",
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "xshift": -112,
                "y": place,
                "showarrow": False,
            }
            for place, task in names
        ],
    }


def _colour(row: SizeRow) -> str:
    return SERIES[row.colour % len(SERIES)]


def _lines(placed: Placed) -> Spec:
    """A faint line from each name to its marks, to lead the eye."""
    x: list[float | None] = []
    y: list[float | None] = []
    for place, row in placed:
        x += [1, max(1, *row.edges), None]
        y += [place, place, None]
    return scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": NEUTRAL, "width": 1},
        opacity=0.4,
        hoverinfo="skip",
        showlegend=False,
        meta={"role": "lines"},
    )


def _sizes(placed: Placed) -> Iterator[Spec]:
    for met in (True, False):
        found = [
            (n, place, row)
            for place, row in placed
            for n, its_own in zip(row.edges, row.met, strict=True)
            if its_own is met
        ]
        if not found:
            continue
        name = LOSS_NAMES["chosen"] if met else UNMET
        yield scatter(
            x=[max(edges, 1) for edges, _, _ in found],
            y=[place for _, place, _ in found],
            mode="markers",
            marker={
                "symbol": "circle" if met else "square-open",
                "size": 11,
                "color": [_colour(row) for *_, row in found],
                **({} if met else {"line": {"width": 2}}),
            },
            cliponaxis=False,
            hovertext=[
                f"<b>{escape(row.model)}</b><br>{name}: {edges:,.0f}" for edges, _, row in found
            ],
            hoverinfo="text",
            name=name,
            legendgroup="chosen" if met else "unmet",
            showlegend=False,
            meta={"role": "sizes"},
        )


def _notes(placed: Placed) -> Spec:
    noted = [(place, row) for place, row in placed if row.note]
    return scatter(
        x=[max(1, *row.edges) for _, row in noted],
        y=[place for place, _ in noted],
        mode="text",
        text=[f"   {escape(row.note)}" for _, row in noted],
        textposition="middle right",
        textfont={"size": 11},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
        meta={"role": "notes"},
    )


def _losses(placed: Placed) -> Iterator[Spec]:
    for kind, look in _LOOKS.items():
        found = [(row.losses[kind], place, row) for place, row in placed if kind in row.losses]
        if not found:
            continue
        yield scatter(
            x=[max(loss, FLOOR) for loss, _, _ in found],
            y=[place for _, place, _ in found],
            xaxis="x2",
            mode="markers",
            marker={**look, "color": [_colour(row) for *_, row in found]},
            hovertext=[
                f"<b>{escape(row.model)}</b><br>{LOSS_NAMES[kind]}: {loss:.4g} nats"
                for loss, _, row in found
            ],
            hoverinfo="text",
            name=LOSS_NAMES[kind],
            legendgroup=kind,
            showlegend=False,
            meta={"role": kind},
        )


def _legend(placed: Placed) -> Iterator[Spec]:
    """Entries without a model's colour."""
    looks = {kind: (LOSS_NAMES[kind], look) for kind, look in _LOOKS.items()}
    if any(not all(row.met) for _, row in placed):
        looks["unmet"] = (UNMET, {"symbol": "square-open", "size": 11, "line": {"width": 2}})
    for kind, (name, look) in looks.items():
        yield scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={**look, "color": NEUTRAL},
            name=name,
            legendgroup=kind,
            hoverinfo="skip",
            meta={"role": "legend"},
        )
