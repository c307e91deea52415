"""Where the parts of a drawing go, in units of rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

EMPTY_BAND = 1.2
"""Columns that one or more layers without a kept node take."""


@dataclass(frozen=True)
class Link:
    """A connection that is not an edge, as a straight line."""

    kind: str
    """`written`: the stream after a kept node wrote to that channel; `stream`: the stream before;
    `pattern`: from a head's q and k to what the head writes."""

    start: Point
    stop: Point


@dataclass(frozen=True)
class Box:
    """A frame around the nodes of one head."""

    label: str
    low: Point
    high: Point


@dataclass(frozen=True)
class Band:
    """The columns of one layer, or of several that keep nothing."""

    label: str
    start: float
    stop: float
    is_empty: bool = False


@dataclass(frozen=True)
class Port:
    """Where the edges into q, k or v of a head of a component graph arrive."""

    node: int
    letter: str
    at: Point


@dataclass(frozen=True)
class Layout:
    """Places for everything in a drawing; input at the left, output at the right."""

    positions: tuple[Point, ...]
    """By node."""

    routes: tuple[tuple[Point, ...], ...]
    """By edge: the corners of its line, from source to target."""

    width: float
    height: float
    bands: tuple[Band, ...]
    headings: tuple[tuple[float, str], ...]
    """Above the columns."""

    ends: tuple[tuple[str, float], ...] = ()
    """The model's input and output where they are no nodes: name and column."""

    links: tuple[Link, ...] = ()
    boxes: tuple[Box, ...] = ()
    ports: tuple[Port, ...] = ()
    rails: tuple[tuple[float, str], ...] = ()
    """Rows of the residual stream's channels, with their labels."""


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, in the given order, as near to the wanted ones as goes simply.

    All lie between `low` and `high` if there is room; else the gap shrinks.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    # Pools of neighbours that touch share their mean: isotonic regression on wanted - i * gap.
    pools: list[list[float]] = []
    for i, place in enumerate(wanted):
        pools.append([place - i * gap, 1.0])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    room = high - (len(wanted) - 1) * gap
    flat = [min(max(value, low), room) for value, count in pools for _ in range(int(count))]
    return [value + i * gap for i, value in enumerate(flat)]


def bands_of(spans: Sequence[tuple[float, float] | None], stop: float) -> tuple[Band, ...]:
    """One band a layer, and one for each run of layers that keep nothing (None), between others.

    Args:
        stop: where the last layer ends.
    """
    bands: list[Band] = []
    edge = 0.3
    for i, span in enumerate(spans):
        if span is not None:
            bands.append(Band(f"layer {i}", *span))
            edge = span[1]
            continue
        if i and spans[i - 1] is None:
            first = bands.pop().label.split()[1]
            label = f"layers {first} to {i}"
        else:
            label = f"layer {i}"
        following = next((s for s in spans[i:] if s is not None), None)
        bands.append(
            Band(label, edge + 0.2, stop if following is None else following[0] - 0.2, True)
        )
    return tuple(bands)
