"""Models by pretraining loss and circuit size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sparse_lens.plotting.spec import Spec, scatter
from sparse_lens.plotting.theme import DASHES, NEUTRAL, SERIES, SYMBOLS

# The size of a label, and how far it stands above or below its mark, as shares of the axes.
_LABEL_WIDTH, _LABEL_HEIGHT, _LABEL_RISE = 0.13, 0.05, 0.045


@dataclass(frozen=True)
class FrontierMark:
    """A model in a figure of several."""

    model: str
    colour: int
    """Index in the palette `theme.SERIES`."""

    family: str
    """Such as `sparse` or `dense`; each has a symbol, and a line through its best models."""

    loss: float
    """Pretraining loss in nats a token."""

    edges: float
    """Edges of a circuit: the geometric mean over tasks and seeds."""

    by_seed: Sequence[float] = ()
    """The same for each seed."""

    best: bool = False
    """Whether no other of its family has both less loss and fewer edges."""

    note: str = ""
    """Shown in the hover text."""


def frontier_spec(marks: Sequence[FrontierMark], *, height: int = 420) -> Spec:
    """Edges a task over pretraining loss; models at the lower left are better on both.

    Error bars span the seeds, from the one with the fewest edges to the one with the most.
    """
    data, label_positions = [], _label_positions(marks)
    for style, family in enumerate(dict.fromkeys(mark.family for mark in marks)):
        members = sorted((m for m in marks if m.family == family), key=lambda m: (m.loss, m.edges))
        data += [
            _line(members, family, style),
            _marks(members, family, style, label_positions),
            _legend(family, style),
        ]
    layout = {
        "height": height,
        "margin": {"l": 60, "r": 24, "t": 16, "b": 56},
        "hovermode": "closest",
        "xaxis": {"title": {"text": "pretraining loss, nats a token"}},
        "yaxis": {
            "type": "log",
            "dtick": "D2",
            "tickformat": "~s",
            "title": {"text": "edges a task, geometric mean"},
        },
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "top"},
    }
    return {"data": data, "layout": layout}


def _line(marks: Sequence[FrontierMark], family: str, style: int) -> Spec:
    best = [mark for mark in marks if mark.best]
    return scatter(
        x=[mark.loss for mark in best],
        y=[mark.edges for mark in best],
        mode="lines",
        line={"color": NEUTRAL, "width": 1.5, "dash": DASHES[style % len(DASHES)]},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=family,
        meta={"role": "frontier"},
    )


def _label_positions(marks: Sequence[FrontierMark]) -> dict[str, str]:
    """By model where its name is written: above its mark, or below if fewer others overlap there.

    Decided from the top mark down, against all marks and the names that have a position already.
    """
    losses, logs = [mark.loss for mark in marks], [math.log(mark.edges) for mark in marks]
    width, height = (
        max(values, default=0) - min(values, default=0) or 1.0 for values in (losses, logs)
    )
    # Coordinates as shares of the axes, whose vertical one is logarithmic.
    points = {mark.model: (mark.loss / width, math.log(mark.edges) / height) for mark in marks}
    occupied, positions = list(points.values()), dict[str, str]()
    for model, (x, y) in sorted(points.items(), key=lambda item: -item[1][1]):
        above, below = ((x, y + sign * _LABEL_RISE) for sign in (1, -1))
        n_above, n_below = (
            sum(_overlap(label, point) for point in occupied) for label in (above, below)
        )
        positions[model] = "bottom center" if n_below < n_above else "top center"
        occupied.append(below if n_below < n_above else above)
    return positions


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return abs(a[0] - b[0]) < _LABEL_WIDTH and abs(a[1] - b[1]) < _LABEL_HEIGHT


def _marks(
    marks: Sequence[FrontierMark], family: str, style: int, label_positions: Mapping[str, str]
) -> Spec:
    colours = [SERIES[mark.colour % len(SERIES)] for mark in marks]
    most = [max(mark.by_seed, default=mark.edges) - mark.edges for mark in marks]
    fewest = [mark.edges - min(mark.by_seed, default=mark.edges) for mark in marks]
    return scatter(
        x=[mark.loss for mark in marks],
        y=[mark.edges for mark in marks],
        mode="markers+text",
        marker={"color": colours, "size": 12, "symbol": SYMBOLS[style % len(SYMBOLS)]},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": most,
            "arrayminus": fewest,
            "color": NEUTRAL,
            "thickness": 1.5,
            "width": 4,
        },
        text=[escape(mark.model) for mark in marks],
        textposition=[label_positions[mark.model] for mark in marks],
        textfont={"size": 11},
        cliponaxis=False,
        hovertext=[
            f"<b>{escape(mark.model)}</b><br>{mark.edges:,.4g} edges, {mark.loss:.3f} nats a token"
            + (f"<br>{escape(mark.note)}" if mark.note else "")
            for mark in marks
        ],
        hoverinfo="text",
        showlegend=False,
        legendgroup=family,
        meta={"role": "models"},
    )


def _legend(family: str, style: int) -> Spec:
    """A legend entry for a family, in grey, as the colours are the models'."""
    return scatter(
        x=[None],
        y=[None],
        mode="lines+markers",
        line={"color": NEUTRAL, "width": 1.5, "dash": DASHES[style % len(DASHES)]},
        marker={"color": NEUTRAL, "size": 12, "symbol": SYMBOLS[style % len(SYMBOLS)]},
        name=escape(family),
        legendgroup=family,
        hoverinfo="skip",
        meta={"role": "legend"},
    )
