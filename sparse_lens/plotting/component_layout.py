"""Layout of component circuits: a column of heads and one of the MLP for each layer.

Heads share the upper part of the drawing and MLPs a lane at the bottom. Edges that pass other
columns go through the gaps between their nodes.

Nodes go by their number, which is their index in `Network.nodes`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from sparse_lens.plotting.layout import Band, Layout, Point, Port, Spacing, layer_columns, spread
from sparse_lens.plotting.network import Edge, Network
from sparse_lens.plotting.sites import kind_of, sites_by_layer

PORT_ROWS = {"q": 0.3, "k": 0.0, "v": -0.3}
"""Rows from a head's own row to where its q, k and v read."""

_PORT_COLUMNS = 0.2
_SPACING = Spacing(start=0.2, to_band=0.15, to_column=0.65, after=0.35)
_MLP_ROW = 0.5
_FIRST_HEAD_ROW = 1.7
_SWEEPS = 8

_CLEARANCE = 0.45
"""How far a line stays from a node that it passes."""

_ROUTED = 1500
"""More edges than this are straight lines: the detours would hide more than they show."""


def component_layout(network: Network) -> Layout:
    """The layout of a circuit of a component graph."""
    columns, bands, width = _columns(network)
    nodes_of: dict[str, list[int]] = defaultdict(list)
    for number, node in enumerate(network.nodes):
        nodes_of[node.site].append(number)
    heads = [numbers for site, numbers in nodes_of.items() if kind_of(site) == "heads"]
    height = max(map(len, heads), default=1) + _FIRST_HEAD_ROW + 0.5
    rows = _rows(network, nodes_of, heads, height)
    positions = tuple((columns[node.site], rows[i]) for i, node in enumerate(network.nodes))
    obstacles = {columns[site]: sorted(rows[i] for i in ns) for site, ns in nodes_of.items()}
    if len(network.edges) > _ROUTED:
        obstacles = {}
    routes = tuple(_route(edge, positions, obstacles) for edge in network.edges)
    ports = {
        (edge.target, edge.port): Port(edge.target, edge.port, route[-1])
        for edge, route in zip(network.edges, routes, strict=True)
        if edge.port
    }
    return Layout(
        positions=positions,
        routes=routes,
        width=width,
        height=height,
        bands=bands,
        headings=tuple(
            (columns[site], kind_of(site)) for site in nodes_of if site not in ("embed", "logits")
        ),
        ports=tuple(ports.values()),
    )


def _columns(network: Network) -> tuple[dict[str, float], tuple[Band, ...], float]:
    """By site its column; the layers; and the column of the logits."""
    columns, bands, x = layer_columns(sites_by_layer(network), _SPACING, lambda *_: 0.8)
    return {"embed": 0.0, **columns, "logits": x + 0.6}, bands, x + 0.6


def _rows(
    network: Network,
    nodes_of: Mapping[str, list[int]],
    heads: Sequence[list[int]],
    height: float,
) -> dict[int, float]:
    """Rows of all nodes; heads ordered by barycentre sweeps so that edges cross little.

    In each sweep the heads of a layer are sorted by the mean row of the nodes that they have edges
    with (Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system
    structures", 1981), and spread one row apart as near to those means as they can be.
    """
    rows: dict[int, float] = {}
    for site, numbers in nodes_of.items():
        centre = height / 2 if site in ("embed", "logits") else _MLP_ROW
        rows.update(_centred(numbers, centre))
    for numbers in heads:
        rows.update(_centred(numbers, (_FIRST_HEAD_ROW + height) / 2))
    neighbours: dict[int, list[int]] = defaultdict(list)
    for edge in network.edges:
        neighbours[edge.source].append(edge.target)
        neighbours[edge.target].append(edge.source)
    for _ in range(_SWEEPS):
        for numbers in heads:
            barycentre = {n: fmean([rows[m] for m in neighbours[n]] or [rows[n]]) for n in numbers}
            order = sorted(numbers, key=lambda n: (barycentre[n], -n))
            wanted = [barycentre[n] for n in order]
            rows.update(zip(order, spread(wanted, 1.0, _FIRST_HEAD_ROW, height - 0.5), strict=True))
    return rows


def _centred(numbers: Sequence[int], centre: float) -> Iterator[tuple[int, float]]:
    """Nodes one row apart around a row, the first on top."""
    for i, number in enumerate(numbers):
        yield number, centre + (len(numbers) - 1) / 2 - i


def _route(
    edge: Edge, positions: Sequence[Point], obstacles: Mapping[float, list[float]]
) -> tuple[Point, ...]:
    """The corners of an edge's line: past the nodes of other columns, level where it does.

    Args:
        obstacles: by column the rows of its nodes in ascending order; empty for a straight line.
    """
    start, stop = positions[edge.source], positions[edge.target]
    if edge.port:
        stop = (stop[0] - _PORT_COLUMNS, stop[1] + PORT_ROWS[edge.port])
    if not obstacles:
        return (start, stop)
    corners = [start]
    for x in sorted(obstacles):
        if start[0] < x < stop[0]:
            share = (x - start[0]) / (stop[0] - start[0])
            corners.append((x, _gap(start[1] + share * (stop[1] - start[1]), obstacles[x])))
    corners.append(stop)
    return tuple(_eased(corners))


def _gap(wanted: float, node_rows: Sequence[float]) -> float:
    """The row nearest to the wanted one that keeps clear of a column's nodes."""
    if all(abs(wanted - row) >= _CLEARANCE for row in node_rows):
        return wanted
    between = [(a + b) / 2 for a, b in pairwise(node_rows) if b - a >= 2 * _CLEARANCE]
    gaps = [node_rows[0] - 0.6, *between, node_rows[-1] + 0.6]
    return min(gaps, key=lambda row: abs(row - wanted))


def _eased(corners: Sequence[Point]) -> Iterator[Point]:
    """The corners joined by curves that are level at each of them.

    Between two corners the row follows the cubic 3 t^2 - 2 t^3, whose slope is 0 at t = 0 and 1.
    """
    yield corners[0]
    for (x0, y0), (x1, y1) in pairwise(corners):
        if abs(y1 - y0) > 1e-6:
            for t in (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85):
                yield (x0 + t * (x1 - x0), y0 + (3 * t * t - 2 * t**3) * (y1 - y0))
        yield (x1, y1)
