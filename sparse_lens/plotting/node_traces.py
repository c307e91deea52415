"""Nodes of a drawing as plotly traces, with labels that are left out where they would not fit.

Nodes go by their number, which is their index in `Network.nodes`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparse_lens.plotting.channel_layout import IDLE
from sparse_lens.plotting.edge_traces import DANGLING, polylines
from sparse_lens.plotting.hover import HoverTexts
from sparse_lens.plotting.layout import Layout, Point
from sparse_lens.plotting.network import Network, Node
from sparse_lens.plotting.sites import STREAM_KINDS, STREAM_WRITES, kind_of
from sparse_lens.plotting.spec import Spec, scatter
from sparse_lens.plotting.theme import LETTERS, NEUTRAL, NODE

_ROOM_FOR_LABEL = 17
"""Diameter in pixels from which on a node has room for its label."""

_ENDS = "input and logits"
"""Legend of the nodes that are neither heads nor MLPs."""

_LINE_HEIGHT = 11
"""Pixels that a line of small text needs."""


@dataclass(frozen=True)
class _Look:
    """What nodes of one trace have in common."""

    legend: str
    symbol: str
    colour: str | None
    """None for an outline filled with the background's colour."""

    size: float
    connected: bool


def node_traces(network: Network, layout: Layout, pitch: float) -> Iterator[Spec]:
    """Nodes by their role, one trace each.

    Args:
        pitch: pixels from row to row.
    """
    by_look: dict[_Look, list[int]] = defaultdict(list)
    for number, node in enumerate(network.nodes):
        by_look[_look(node, network.kind, pitch)].append(number)
    labelled = _labelled(network, layout.positions, pitch)
    texts = HoverTexts(network)
    for look, numbers in by_look.items():
        inside = look.colour is not None and look.size >= _ROOM_FOR_LABEL
        if look.legend == _ENDS:
            position, font = "top center", {}
        elif inside:
            position, font = "middle center", {"color": "#ffffff", "shadow": "none"}
        else:
            position, font = "middle right", {}
        if look.colour:
            outline = {"color": look.colour if look.connected else NEUTRAL}
        else:
            outline = {"line": {"color": NODE, "width": 1.5}}
        yield scatter(
            x=[round(layout.positions[i][0], 3) for i in numbers],
            y=[round(layout.positions[i][1], 3) for i in numbers],
            mode="markers+text",
            marker={
                "symbol": look.symbol,
                "size": look.size,
                "opacity": 1.0 if look.connected else 0.45,
                **outline,
            },
            text=[_label(network.nodes[i]) if i in labelled else "" for i in numbers],
            textposition=position,
            textfont={"size": 9, **font},
            hovertext=[texts(i) for i in numbers],
            hoverinfo="text",
            customdata=numbers,
            name=look.legend if look.connected else DANGLING,
            legendgroup=look.legend if look.connected else DANGLING,
            showlegend=look.connected,
            cliponaxis=False,
            meta={"role": "nodes"},
        )


def end_traces(layout: Layout) -> Iterator[Spec]:
    """The model's input and output as vertical bars, at which all rails start and end."""
    for name, x in layout.ends:
        yield scatter(
            x=[x, x],
            y=[0, layout.height],
            mode="lines",
            line={"color": NODE, "width": 5},
            hovertext=[name, name],
            hoverinfo="text",
            name=name,
            showlegend=False,
            meta={"role": "end"},
        )


def port_traces(layout: Layout) -> Iterator[Spec]:
    """Marks where edges into q, k and v of heads arrive, each with a line to its head."""
    if not layout.ports:
        return
    x, y = polylines((port.position, layout.positions[port.node]) for port in layout.ports)
    yield scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": NEUTRAL, "width": 1},
        hoverinfo="skip",
        showlegend=False,
        meta={"role": "port stems"},
    )
    for letter, colour in LETTERS.items():
        positions = [port.position for port in layout.ports if port.letter == letter]
        if positions:
            yield scatter(
                x=[round(x, 3) for x, _ in positions],
                y=[round(y, 3) for _, y in positions],
                mode="markers",
                marker={"size": 6, "color": colour, "line": {"width": 0}},
                hoverinfo="skip",
                name=f"read as {letter}",
                meta={"role": "ports"},
            )


def _look(node: Node, graph_kind: str, pitch: float) -> _Look:
    large = max(5.0, min(20.0, pitch - 5))
    kind = kind_of(node.site)
    if graph_kind == "component":
        symbol = "square" if kind == "mlp" else "circle"
        legend = {"heads": "head", "mlp": "MLP"}.get(kind, _ENDS)
        return _Look(legend, symbol, NODE, large, node.connected)
    small = max(4.0, min(11.0, pitch - 4))
    if not (node.connected or node.n_in or node.n_out):
        small = max(2.0, min(6.0, IDLE * pitch - 1))
    if kind in STREAM_WRITES:
        return _Look("channel written", "circle", NODE, small, node.connected)
    if kind in STREAM_KINDS:
        return _Look("channel read", "circle", None, small, node.connected)
    if kind in LETTERS:
        return _Look(f"channel of {kind}", "circle", LETTERS[kind], large, node.connected)
    return _Look("neuron", "square", NODE, large, node.connected)


def _label(node: Node) -> str:
    if kind_of(node.site) == "heads":
        return str(node.index)
    return node.name if ":" not in node.name else str(node.index)


def _labelled(network: Network, positions: Sequence[Point], pitch: float) -> set[int]:
    """The nodes that get a label: from the top of each column down, as many as fit.

    Nodes on rails get none, as the rails have labels.
    """
    by_column: dict[float, list[int]] = defaultdict(list)
    for number, node in enumerate(network.nodes):
        if network.kind == "component" or kind_of(node.site) not in STREAM_KINDS:
            by_column[positions[number][0]].append(number)
    labelled: set[int] = set()
    for numbers in by_column.values():
        last_row = float("inf")
        for number in sorted(numbers, key=lambda i: -positions[i][1]):
            row = positions[number][1]
            if (last_row - row) * pitch >= _LINE_HEIGHT:
                labelled.add(number)
                last_row = row
    return labelled
