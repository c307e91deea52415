"""Sizes of circuits task by task, beside their losses and those of the controls."""

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
    """Index in the palette `theme.SERIES`."""

    sizes: Sequence[int | float]
    """Of each seed's circuit."""

    met: Sequence[bool]
    """Of each seed, whether its circuit met the target; if not, its size is the full graph's."""

    losses: Mapping[str, float]
    """Two-way losses in nats, by the keys of `LOSS_NAMES`."""

    note: str = ""
    """Text beside the sizes, such as the ratio to another model."""


LOSS_NAMES = {**MARK_NAMES, "ablated": "circuit ablated, the rest kept"}

_LOOKS: Mapping[str, Mapping[str, Any]] = {
    "chosen": {"symbol": "circle", "size": 11},
    "full": {"symbol": "triangle-up-open", "size": 10, "line": {"width": 2}},
    "random": {"symbol": "x-thin-open", "size": 8, "line": {"width": 2}},
    "empty": {"symbol": "circle-open", "size": 10, "line": {"width": 2}},
    "ablated": {"symbol": "diamond-open", "size": 10, "line": {"width": 2}},
}
UNMET = "target not met: the full graph's size"
_ROW_HEIGHT = 20
"""Pixels."""

PlacedRows = Sequence[tuple[float, SizeRow]]
"""Rows with their y, counted from the top."""


def sizes_spec(
    tasks: Mapping[str, Sequence[SizeRow]],
    *,
    target_loss: float | None = None,
    unit: str = "edges",
) -> Spec:
    """Sizes of the chosen circuits, task by task, beside their losses and those of the controls.

    A circuit that missed the target is a hollow mark at the full graph's size. A size of 0 is drawn
    at 1, as the axis is logarithmic.

    Args:
        target_loss: drawn as a vertical line.
        unit: what sizes are counted in.
    """
    rows: list[tuple[float, SizeRow]] = []
    headings: list[tuple[float, str]] = []
    y = 0.0
    for task, task_rows in tasks.items():
        headings.append((y, task))
        rows += [(y + i, row) for i, row in enumerate(task_rows, start=1)]
        y += len(task_rows) + 1.4
    layout = _frame(rows, headings, y, unit)
    if target_loss is not None:
        dashed = {"color": NEUTRAL, "width": 1, "dash": "dash"}
        ends = {"x0": target_loss, "x1": target_loss, "y0": 0, "y1": 1}
        layout["shapes"] = [{"type": "line", "xref": "x2", "yref": "paper", "line": dashed, **ends}]
    data = [_lines(rows), *_sizes(rows), _notes(rows), *_losses(rows), *_legend(rows)]
    return {"data": data, "layout": layout}


def _frame(
    rows: PlacedRows, headings: Sequence[tuple[float, str]], stop: float, unit: str
) -> dict[str, Any]:
    log = {"type": "log", "dtick": 1, "side": "top"}
    return {
        "height": round(stop * _ROW_HEIGHT + 110),
        "margin": {"l": 120, "r": 16, "t": 56, "b": 48},
        "hovermode": "closest",
        "xaxis": {
            **log,
            "tickformat": "~s",
            "domain": [0, 0.49],
            "title": {"text": f"{unit} of the circuit"},
        },
        "xaxis2": {
            **log,
            "tickformat": "~g",
            "domain": [0.57, 1],
            "title": {"text": "two-way loss, nats a prompt"},
        },
        "yaxis": {
            "tickmode": "array",
            "tickvals": [y for y, _ in rows],
            "ticktext": [escape(row.model) for _, row in rows],
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
                "y": y,
                "showarrow": False,
            }
            for y, task in headings
        ],
    }


def _colour(row: SizeRow) -> str:
    return SERIES[row.colour % len(SERIES)]


def _lines(rows: PlacedRows) -> Spec:
    """A faint line from the name of each model to its marks."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for y, row in rows:
        xs += [1, max(1, *row.sizes), None]
        ys += [y, y, None]
    return scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"color": NEUTRAL, "width": 1},
        opacity=0.4,
        hoverinfo="skip",
        showlegend=False,
        meta={"role": "lines"},
    )


def _sizes(rows: PlacedRows) -> Iterator[Spec]:
    for met in (True, False):
        circuits = [
            (size, y, row)
            for y, row in rows
            for size, met_by_seed in zip(row.sizes, row.met, strict=True)
            if met_by_seed is met
        ]
        if not circuits:
            continue
        name = LOSS_NAMES["chosen"] if met else UNMET
        yield scatter(
            x=[max(size, 1) for size, _, _ in circuits],
            y=[y for _, y, _ in circuits],
            mode="markers",
            marker={
                "symbol": "circle" if met else "square-open",
                "size": 11,
                "color": [_colour(row) for *_, row in circuits],
                **({} if met else {"line": {"width": 2}}),
            },
            cliponaxis=False,
            hovertext=[
                f"<b>{escape(row.model)}</b><br>{name}: {size:,.0f}" for size, _, row in circuits
            ],
            hoverinfo="text",
            name=name,
            legendgroup="chosen" if met else "unmet",
            showlegend=False,
            meta={"role": "sizes"},
        )


def _notes(rows: PlacedRows) -> Spec:
    noted = [(y, row) for y, row in rows if row.note]
    return scatter(
        x=[max(1, *row.sizes) for _, row in noted],
        y=[y for y, _ in noted],
        mode="text",
        text=[f"   {escape(row.note)}" for _, row in noted],
        textposition="middle right",
        textfont={"size": 11},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
        meta={"role": "notes"},
    )


def _losses(rows: PlacedRows) -> Iterator[Spec]:
    for kind, look in _LOOKS.items():
        losses = [(row.losses[kind], y, row) for y, row in rows if kind in row.losses]
        if not losses:
            continue
        yield scatter(
            x=[max(loss, FLOOR) for loss, _, _ in losses],
            y=[y for _, y, _ in losses],
            xaxis="x2",
            mode="markers",
            marker={**look, "color": [_colour(row) for *_, row in losses]},
            hovertext=[
                f"<b>{escape(row.model)}</b><br>{LOSS_NAMES[kind]}: {loss:.4g} nats"
                for loss, _, row in losses
            ],
            hoverinfo="text",
            name=LOSS_NAMES[kind],
            legendgroup=kind,
            showlegend=False,
            meta={"role": kind},
        )


def _legend(rows: PlacedRows) -> Iterator[Spec]:
    """Legend entries for the kinds of marks, in grey, as the colours are the models'."""
    looks = {kind: (LOSS_NAMES[kind], look) for kind, look in _LOOKS.items()}
    if any(not all(row.met) for _, row in rows):
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
