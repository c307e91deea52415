"""Layout of component circuits: a column of heads and one of the MLP for each layer.

Heads share the upper part of the drawing and MLPs a lane at the bottom. Edges that pass other
columns go through the gaps between their nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from sparse_lens.plotting.layout import EMPTY_BAND, Band, Layout, Point, Port, bands_of, spread
from sparse_lens.plotting.network import Edge, Network

PORT_ROWS = {"q": 0.3, "k": 0.0, "v": -0.3}
"""Where q, k and v of a head read, against the head's own row."""

_PORT_COLUMNS = 0.2
_MLP_ROW = 0.5
_FIRST_HEAD_ROW = 1.7
_SWEEPS = 8
_CLEAR = 0.45
"""How far a line stays from a node that it passes."""

_ROUTED = 1500
"""More edges than this are straight lines: the detours would hide more than they show."""


def component_layout(network: Network) -> Layout:
    """Places for a circuit of a component graph."""
    columns, bands, width = _columns(network)
    members: dict[str, list[int]] = defaultdict(list)
    for number, node in enumerate(network.nodes):
        members[node.site].append(number)
    heads = {site: found for site, found in members.items() if site.endswith(".heads")}
    height = max(map(len, heads.values()), default=1) + _FIRST_HEAD_ROW + 0.5
    places = _rows(network, members, heads, height)
    positions = tuple((columns[node.site], places[i]) for i, node in enumerate(network.nodes))
    passed = {columns[site]: sorted(places[i] for i in found) for site, found in members.items()}
    straight = len(network.edges) > _ROUTED
    routes = tuple(_route(edge, positions, {} if straight else passed) for edge in network.edges)
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
            (columns[site], "heads" if site in heads else "mlp")
            for site in members
            if site not in ("embed", "logits")
        ),
        ports=tuple(ports.values()),
    )


def _columns(network: Network) -> tuple[dict[str, float], tuple[Band, ...], float]:
    """By site its column; the layers; and the column of the logits."""
    used = {node.site for node in network.nodes}
    columns = {"embed": 0.0}
    spans: list[tuple[float, float] | None] = []
    x = 0.2
    for layer in range(network.n_layers):
        here = [s for s in network.sites if s.startswith(f"blocks.{layer}.") and s in used]
        if not here:
            spans.append(None)
            continue
        if spans and spans[-1] is None:
            x += EMPTY_BAND
        start, x = x + 0.15, x + 0.65
        columns[here[0]] = x
        for site in here[1:]:
            x += 0.8
            columns[site] = x
        x += 0.35
        spans.append((start, x))
    if spans and spans[-1] is None:
        x += EMPTY_BAND
    columns["logits"] = x + 0.6
    return columns, bands_of(spans, x), x + 0.6


def _rows(
    network: Network,
    members: Mapping[str, list[int]],
    heads: Mapping[str, list[int]],
    height: float,
) -> dict[int, float]:
    """Rows of all nodes; heads ordered by barycentre sweeps so that edges cross little."""
    places: dict[int, float] = {}
    for site, found in members.items():
        for i, number in enumerate(found):
            centre = height / 2 if site in ("embed", "logits") else _MLP_ROW
            places[number] = centre + (len(found) - 1) / 2 - i
    joined: dict[int, list[int]] = defaultdict(list)
    for edge in network.edges:
        joined[edge.source].append(edge.target)
        joined[edge.target].append(edge.source)
    for found in heads.values():
        middle = (_FIRST_HEAD_ROW + height) / 2
        places.update((n, middle + (len(found) - 1) / 2 - i) for i, n in enumerate(found))
    for _ in range(_SWEEPS):
        for found in heads.values():
            wanted = {n: fmean([places[o] for o in joined[n]] or [places[n]]) for n in found}
            order = sorted(found, key=lambda n: (wanted[n], -n))
            rows = spread([wanted[n] for n in order], 1.0, _FIRST_HEAD_ROW, height - 0.5)
            places.update(zip(order, rows, strict=True))
    return places


def _route(
    edge: Edge, positions: Sequence[Point], passed: Mapping[float, list[float]]
) -> tuple[Point, ...]:
    """The corners of an edge's line: past the nodes of other columns, level where it does."""
    start, stop = positions[edge.source], positions[edge.target]
    if edge.port:
        stop = (stop[0] - _PORT_COLUMNS, stop[1] + PORT_ROWS[edge.port])
    if not passed:
        return (start, stop)
    corners = [start]
    for x in sorted(passed):
        if start[0] < x < stop[0]:
            share = (x - start[0]) / (stop[0] - start[0])
            corners.append((x, _gap(start[1] + share * (stop[1] - start[1]), passed[x])))
    corners.append(stop)
    return tuple(_eased(corners))


def _gap(wanted: float, nodes: Sequence[float]) -> float:
    """The row nearest to the wanted one that keeps clear of a column's nodes."""
    if all(abs(wanted - row) >= _CLEAR for row in nodes):
        return wanted
    between = [(a + b) / 2 for a, b in pairwise(nodes) if b - a >= 2 * _CLEAR]
    gaps = [nodes[0] - 0.6, *between, nodes[-1] + 0.6]
    return min(gaps, key=lambda row: abs(row - wanted))


def _eased(corners: Sequence[Point]) -> Iterator[Point]:
    """The corners joined by curves that are level at each of them."""
    yield corners[0]
    for (x0, y0), (x1, y1) in pairwise(corners):
        if abs(y1 - y0) > 1e-6:
            for t in (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85):
                yield (x0 + t * (x1 - x0), y0 + (3 * t * t - 2 * t**3) * (y1 - y0))
        yield (x1, y1)
