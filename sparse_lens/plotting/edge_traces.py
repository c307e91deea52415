"""Edges and links of a drawing as plotly traces: one for each sign and strength of edges."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from sparse_lens.plotting.layout import Layout, Point
from sparse_lens.plotting.network import Edge, Network
from sparse_lens.plotting.spec import Spec, scatter
from sparse_lens.plotting.theme import LETTERS, NEGATIVE, NEUTRAL, POSITIVE

Coordinates = tuple[list[float | None], list[float | None]]
"""The x and the y of lines; None ends a line."""

_STEPS = ((0.5, 2.8, 1.0), (0.2, 1.7, 0.8), (0.0, 0.9, 0.55))
"""Least strength, as a share of the strongest edge's; width in pixels; opacity."""

_FADE_FROM = 150
"""Number of edges above which all of them are drawn paler."""

DANGLING = "not on a path"
"""Legend of nodes and edges on no path from input to output."""

_MANY_LINKS = 400
"""Links of a kind with more than this are hidden until the legend is clicked."""

_LINKS = {
    "written": ("stream, written by the circuit", "dot", 1.3, 0.75),
    "stream": ("stream, embedding only", "dot", 1.0, 0.4),
    "pattern": ("q and k act on v", "dot", 1.0, 0.75),
}
"""By kind of link: legend, dash, width in pixels, opacity."""


@dataclass(frozen=True)
class _Look:
    """What edges of one trace have in common."""

    legend: str
    colour: str
    width: float
    opacity: float


def link_traces(layout: Layout) -> Iterator[Spec]:
    """Links as thin dotted lines, one trace for each kind, which the legend shows and hides."""
    by_kind: dict[str, list[Sequence[Point]]] = defaultdict(list)
    for link in layout.links:
        by_kind[link.kind].append((link.start, link.stop))
    for kind, (legend, dash, width, opacity) in _LINKS.items():
        if not by_kind[kind]:
            continue
        x, y = polylines(by_kind[kind])
        yield scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": NEUTRAL, "width": width, "dash": dash},
            opacity=opacity,
            name=legend,
            hoverinfo="skip",
            visible=True if len(by_kind[kind]) <= _MANY_LINKS else "legendonly",
            legendrank=900,
            meta={"role": "links", "kind": kind},
        )


def edge_traces(network: Network, layout: Layout) -> Iterator[Spec]:
    """Edges as lines, and an invisible point in the middle of each that carries its hover text."""
    strongest = max((abs(e.strength) for e in network.edges if e.strength is not None), default=0.0)
    fade = min(1.0, max(0.2, math.sqrt(_FADE_FROM / max(len(network.edges), 1))))
    by_look: dict[_Look, list[int]] = defaultdict(list)
    for number, edge in enumerate(network.edges):
        by_look[_look(edge, strongest, network.edges)].append(number)
    # The faintest first, so that strong edges lie on top; a legend entry shows the strongest.
    looks = sorted(by_look, key=lambda look: (look.opacity, look.width, look.legend))
    look_in_legend = {look.legend: look for look in looks}
    # Positive before negative, and edges on no path last.
    order = sorted(
        look_in_legend,
        key=lambda legend: (legend == DANGLING, "negative" in legend, legend),
    )
    for look in looks:
        numbers = by_look[look]
        x, y = polylines(layout.routes[number] for number in numbers)
        yield scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": look.colour, "width": look.width},
            opacity=round(look.opacity * fade, 3),
            name=look.legend,
            legendgroup=look.legend,
            showlegend=look_in_legend[look.legend] is look,
            legendrank=100 + order.index(look.legend),
            hoverinfo="skip",
            meta={"role": "edges", "edges": numbers},
        )
    if network.edges:
        yield _hover_points(network, layout)


def polylines(lines: Iterable[Sequence[Point]]) -> Coordinates:
    """Many lines as the coordinates of one trace."""
    x: list[float | None] = []
    y: list[float | None] = []
    for line in lines:
        x += [round(point[0], 3) for point in line] + [None]
        y += [round(point[1], 3) for point in line] + [None]
    return x, y


def number_text(value: float) -> str:
    """A signed number of three digits, with a minus sign in place of the hyphen."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def _look(edge: Edge, strongest: float, edges: Sequence[Edge]) -> _Look:
    if not edge.connected:
        return _Look(DANGLING, NEUTRAL, 0.9, 0.4)
    if edge.strength is None:
        if edge.port:
            return _Look(f"read by {edge.port}", LETTERS[edge.port], 1.4, 0.8)
        has_ports = any(e.port for e in edges)
        return _Look("read by MLP or logits" if has_ports else "edge", NEUTRAL, 1.4, 0.9)
    share = abs(edge.strength) / strongest if strongest else 0.0
    _, width, opacity = next(step for step in _STEPS if share >= step[0])
    quantity = "score" if edge.weight is None else "weight"
    if edge.strength >= 0:
        return _Look(f"positive {quantity}", POSITIVE, width, opacity)
    return _Look(f"negative {quantity}", NEGATIVE, width, opacity)


def _hover_points(network: Network, layout: Layout) -> Spec:
    middles = [_middle(route) for route in layout.routes]
    return scatter(
        x=[round(x, 3) for x, _ in middles],
        y=[round(y, 3) for _, y in middles],
        mode="none",
        text=[_hover_text(network, edge) for edge in network.edges],
        hoverinfo="text",
        customdata=[[i, edge.source, edge.target] for i, edge in enumerate(network.edges)],
        showlegend=False,
        meta={"role": "edge points"},
    )


def _middle(route: Sequence[Point]) -> Point:
    """The point of a route half way between its first and last column."""
    half = (route[0][0] + route[-1][0]) / 2
    for (x0, y0), (x1, y1) in pairwise(route):
        if x0 <= half <= x1:
            share = (half - x0) / (x1 - x0) if x1 > x0 else 0.0
            return half, y0 + share * (y1 - y0)
    return route[len(route) // 2]


def _hover_text(network: Network, edge: Edge) -> str:
    source, _, target = network.edge_name(edge).partition("->")
    lines = [f"<b>{escape(source)} → {escape(target)}</b>"]
    values: dict[str, Any] = {"weight": edge.weight, "score": edge.score}
    lines += [f"{name} {number_text(v)}" for name, v in values.items() if v is not None]
    if not edge.connected:
        lines.append("not on a path from input to output")
    return "<br>".join(lines)
