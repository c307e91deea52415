"""Positions of the parts of a drawing, in units of rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
"""Column and row; columns count from left to right, rows from the bottom to the top."""

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
    """Lower left corner."""

    high: Point
    """Upper right corner."""


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
    """Number of the head in the drawing."""

    letter: str
    position: Point


@dataclass(frozen=True)
class Layout:
    """Positions of everything in a drawing; input at the left, output at the right."""

    positions: tuple[Point, ...]
    """By node."""

    routes: tuple[tuple[Point, ...], ...]
    """By edge: the corners of its line, from source to target."""

    width: float
    height: float
    bands: tuple[Band, ...]
    headings: tuple[tuple[float, str], ...]
    """Column and text of the headings above the columns."""

    ends: tuple[tuple[str, float], ...] = ()
    """Name and column of the model's input and output, where they are no nodes."""

    links: tuple[Link, ...] = ()
    boxes: tuple[Box, ...] = ()
    ports: tuple[Port, ...] = ()
    rails: tuple[tuple[float, str], ...] = ()
    """Row and label of the residual stream's channels."""


@dataclass(frozen=True)
class Spacing:
    """Distances between the columns of a drawing."""

    start: float
    """The column from which the first band is placed, as if a band ended there."""

    to_band: float
    """From the end of a band to the start of the next one."""

    to_column: float
    """From the end of a band to the first column of the next one."""

    after: float
    """From the last column of a band to the end of the band."""


def layer_columns(
    sites: Sequence[Sequence[str]], spacing: Spacing, step: Callable[[str, str], float]
) -> tuple[dict[str, float], tuple[Band, ...], float]:
    """By site its column; the bands of the layers; and the column where the last layer ends.

    Args:
        sites: by layer those with a column, from left to right.
        step: columns between a site and the next one of the layer.
    """
    columns: dict[str, float] = {}
    spans: list[tuple[float, float] | None] = []
    x = spacing.start
    for layer_sites in sites:
        if not layer_sites:
            spans.append(None)
            continue
        if spans and spans[-1] is None:
            x += EMPTY_BAND
        start, x = x + spacing.to_band, x + spacing.to_column
        columns[layer_sites[0]] = x
        for previous, site in pairwise(layer_sites):
            x += step(previous, site)
            columns[site] = x
        x += spacing.after
        spans.append((start, x))
    if spans and spans[-1] is None:
        x += EMPTY_BAND
    return columns, bands_of(spans, x), x


def bands_of(spans: Sequence[tuple[float, float] | None], stop: float) -> tuple[Band, ...]:
    """A band for each layer with nodes, and one for each run of layers that keep nothing (None).

    Args:
        spans: by layer the columns where it starts and stops.
        stop: the column where the last layer ends.
    """
    bands: list[Band] = []
    previous_stop = 0.3
    for layer, span in enumerate(spans):
        if span is not None:
            bands.append(Band(f"layer {layer}", *span))
            previous_stop = span[1]
            continue
        if layer and spans[layer - 1] is None:  # extend the empty band of the layers before
            first_layer = bands.pop().label.split()[1]
            label = f"layers {first_layer} to {layer}"
        else:
            label = f"layer {layer}"
        following = next((span for span in spans[layer:] if span is not None), None)
        band_stop = stop if following is None else following[0] - 0.2
        bands.append(Band(label, previous_stop + 0.2, band_stop, True))
    return tuple(bands)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rows at least `gap` apart, in the given order, close to the wanted ones.

    They are the rows with the least squared distance to the wanted ones, moved into `low` to
    `high` where they lie outside. The gap shrinks if there is too little room.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    # With z_i = row_i - i * gap, rows `gap` apart are z_0 <= z_1 <= ...: isotonic regression of
    # wanted_i - i * gap, by pooling adjacent violators. A pool is [mean, number of rows].
    pools: list[list[float]] = []
    for i, row in enumerate(wanted):
        pools.append([row - i * gap, 1.0])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (mean_a, n_a), (mean_b, n_b) = pools[-2:]
            pools[-2:] = [[(mean_a * n_a + mean_b * n_b) / (n_a + n_b), n_a + n_b]]
    highest = high - (len(wanted) - 1) * gap
    fitted = [min(max(mean, low), highest) for mean, count in pools for _ in range(int(count))]
    return [value + i * gap for i, value in enumerate(fitted)]
