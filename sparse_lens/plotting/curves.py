"""Curves over the number of edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from sparse_lens.plotting.spec import Spec, scatter
from sparse_lens.plotting.theme import DASHES, NEUTRAL, SERIES, SYMBOLS

FLOOR = 1e-4
"""Smaller values are drawn here on a logarithmic axis."""


@dataclass(frozen=True)
class Curve:
    """One line of a plot over the number of edges."""

    name: str
    colour: int
    """Index in the palette `theme.SERIES`; a model has the same in all figures."""

    style: int
    """Index in `theme.DASHES` and `theme.SYMBOLS`; a method has the same in all figures."""

    edges: Sequence[int | float]
    values: Sequence[float]
    marks: Sequence[tuple[int | float, float, str]] = field(default=())
    """Single circuits: edges, value and kind, one of `MARKS`."""


MARKS = {
    "chosen": {"symbol": "star", "size": 10},
    "random": {"symbol": "x-thin", "size": 8},
    "full": {"symbol": "triangle-up-open", "size": 8},
    "empty": {"symbol": "circle-open", "size": 8},
}
"""Marks of single circuits in all figures, by kind."""

MARK_NAMES = {
    "chosen": "chosen circuit",
    "random": "random circuit of its size",
    "full": "full model",
    "empty": "empty circuit",
}


def curves_spec(
    curves: Sequence[Curve],
    *,
    y_title: str = "",
    log_y: bool = False,
    level: float | None = None,
    title: str | None = None,
    height: int = 260,
    legend: bool = True,
) -> Spec:
    """Values over the number of edges on a logarithmic axis, where 0 edges are drawn at 1.

    Args:
        log_y: a logarithmic y axis, where values under 1e-4 are drawn at 1e-4.
        level: a target to draw as a horizontal line.
    """
    data = [_line(curve, log_y) for curve in curves]
    for kind in MARKS:
        data += _marks(curves, kind, log_y)
    dashed = {"color": NEUTRAL, "width": 1, "dash": "dash"}
    ends = {"x0": 0, "x1": 1, "y0": level, "y1": level}
    line = {"type": "line", "xref": "x domain", "line": dashed, **ends}
    y_log = {"type": "log", "dtick": 1, "tickformat": "~g"} if log_y else {}
    layout = {
        "title": {"text": escape(title)} if title else None,
        "height": height,
        "margin": {"l": 50 if y_title else 36, "r": 12, "t": 40 if title else 12, "b": 40},
        "showlegend": legend,
        "hovermode": "closest",
        "shapes": [] if level is None else [line],
        "xaxis": {"type": "log", "dtick": 1, "tickformat": "~s", "title": {"text": "edges"}},
        "yaxis": {"title": {"text": escape(y_title)}, **y_log},
    }
    return {"data": data, "layout": layout}


def _line(curve: Curve, log_y: bool) -> Spec:
    colour = SERIES[curve.colour % len(SERIES)]
    return scatter(
        x=[max(x, 1) for x in curve.edges],
        y=[_shown(y, log_y) for y in curve.values],
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": DASHES[curve.style % len(DASHES)]},
        marker={"color": colour, "size": 5, "symbol": SYMBOLS[curve.style % len(SYMBOLS)]},
        name=escape(curve.name),
        customdata=list(zip(curve.edges, curve.values, strict=True)),
        hovertemplate=(
            f"<b>{escape(curve.name)}</b><br>%{{customdata[0]:,.4~g}} edges: "
            "%{customdata[1]:.4~g}<extra></extra>"
        ),
        meta={"role": "curve"},
    )


def _marks(curves: Sequence[Curve], kind: str, log_y: bool) -> Iterator[Spec]:
    for curve in curves:
        points = [(x, y) for x, y, mark_kind in curve.marks if mark_kind == kind]
        if not points:
            continue
        colour = SERIES[curve.colour % len(SERIES)]
        outline = {"line": {"color": colour, "width": 2}} if kind == "random" else {}
        yield scatter(
            x=[max(x, 1) for x, _ in points],
            y=[_shown(y, log_y) for _, y in points],
            mode="markers",
            marker={**MARKS[kind], "color": colour, **outline},
            name=MARK_NAMES[kind],
            legendgroup=kind,
            showlegend=False,
            customdata=points,
            hovertemplate=(
                f"<b>{escape(curve.name)}</b><br>{MARK_NAMES[kind]}, %{{customdata[0]:,.4~g}} "
                "edges: %{customdata[1]:.4~g}<extra></extra>"
            ),
            meta={"role": kind},
        )


def _shown(value: float, log_y: bool) -> float:
    return max(value, FLOOR) if log_y else value
