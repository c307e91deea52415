"""Models by pretraining loss and circuit size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sparse_lens.plotting.spec import Spec, scatter
from sparse_lens.plotting.theme import DASHES, NEUTRAL, SERIES, SYMBOLS

# Of a name, as shares of what the marks span.
_LABEL_WIDTH, _LABEL_HEIGHT, _LABEL_RISE = 0.13, 0.05, 0.045


@dataclass(frozen=True)
class FrontierMark:
    """A model among others."""

    model: str
    colour: int
    """Number in the palette."""

    family: str
    """Such as `sparse` or `dense`; a family has a symbol, and a line through its best models."""

    loss: float
    """Pretraining loss in nats a token."""

    edges: float
    by_seed: Sequence[float] = ()
    best: bool = False
    """Whether no other of its family has both less loss and fewer edges."""

    note: str = ""
    """Shown when pointing at it."""


def frontier_spec(marks: Sequence[FrontierMark], *, height: int = 420) -> Spec:
    """Edges a task over pretraining loss, better towards the corner at the lower left.

    Bars lead from the seed with the fewest edges to the one with the most.
    """
    data, sides = [], _sides(marks)
    for place, family in enumerate(dict.fromkeys(mark.family for mark in marks)):
        own = sorted((m for m in marks if m.family == family), key=lambda m: (m.loss, m.edges))
        data += [
            _line(own, family, place),
            _marks(own, family, place, sides),
            _legend(family, place),
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


def _line(marks: Sequence[FrontierMark], family: str, place: int) -> Spec:
    best = [mark for mark in marks if mark.best]
    return scatter(
        x=[mark.loss for mark in best],
        y=[mark.edges for mark in best],
        mode="lines",
        line={"color": NEUTRAL, "width": 1.5, "dash": DASHES[place % len(DASHES)]},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=family,
        meta={"role": "frontier"},
    )


def _sides(marks: Sequence[FrontierMark]) -> dict[str, str]:
    """Where each model's name is written: above its mark, or below where others are in the way."""
    losses, logs = [mark.loss for mark in marks], [math.log(mark.edges) for mark in marks]
    across, up = (
        max(values, default=0) - min(values, default=0) or 1.0 for values in (losses, logs)
    )
    places = {mark.model: (mark.loss / across, math.log(mark.edges) / up) for mark in marks}
    taken, sides = list(places.values()), dict[str, str]()
    for model, (x, y) in sorted(places.items(), key=lambda item: -item[1][1]):
        above, below = ((x, y + side * _LABEL_RISE) for side in (1, -1))
        crowded = [sum(_overlap(label, other) for other in taken) for label in (above, below)]
        sides[model] = "bottom center" if crowded[1] < crowded[0] else "top center"
        taken.append(below if crowded[1] < crowded[0] else above)
    return sides


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(one[0] - other[0]) < _LABEL_WIDTH and abs(one[1] - other[1]) < _LABEL_HEIGHT


def _marks(
    marks: Sequence[FrontierMark], family: str, place: int, sides: Mapping[str, str]
) -> Spec:
    colours = [SERIES[mark.colour % len(SERIES)] for mark in marks]
    most = [max(mark.by_seed, default=mark.edges) - mark.edges for mark in marks]
    fewest = [mark.edges - min(mark.by_seed, default=mark.edges) for mark in marks]
    return scatter(
        x=[mark.loss for mark in marks],
        y=[mark.edges for mark in marks],
        mode="markers+text",
        marker={"color": colours, "size": 12, "symbol": SYMBOLS[place % len(SYMBOLS)]},
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
        textposition=[sides[mark.model] for mark in marks],
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


def _legend(family: str, place: int) -> Spec:
    """An entry without a model's colour."""
    return scatter(
        x=[None],
        y=[None],
        mode="lines+markers",
        line={"color": NEUTRAL, "width": 1.5, "dash": DASHES[place % len(DASHES)]},
        marker={"color": NEUTRAL, "size": 12, "symbol": SYMBOLS[place % len(SYMBOLS)]},
        name=escape(family),
        legendgroup=family,
        hoverinfo="skip",
        meta={"role": "legend"},
    )
