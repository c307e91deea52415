"""Nodes of a drawing as plotly traces, with labels that thin out where they would not fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparse_lens.plotting.channel_layout import IDLE, STREAM, kind_of
from sparse_lens.plotting.edge_traces import DANGLING, polylines
from sparse_lens.plotting.hover import HoverTexts
from sparse_lens.plotting.layout import Layout, Point
from sparse_lens.plotting.network import Network, Node
from sparse_lens.plotting.spec import Spec, scatter
from sparse_lens.plotting.theme import LETTERS, NEUTRAL, NODE

_INSIDE = 17
"""Pixels across from which on a node has room for its label."""

_ENDS = "input and logits"
_LINE = 11
"""Pixels that a line of small text needs."""


@dataclass(frozen=True)
class _Look:
    legend: str
    symbol: str
    colour: str | None
    """None: filled with the ground's colour, and outlined."""

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
        inside = look.colour is not None and look.size >= _INSIDE
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
    """The model's input and output as bars that every rail starts or ends at."""
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
    """Where edges into q, k and v of heads arrive, and which head each belongs to."""
    if not layout.ports:
        return
    x, y = polylines((port.at, layout.positions[port.node]) for port in layout.ports)
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
        at = [port.at for port in layout.ports if port.letter == letter]
        if at:
            yield scatter(
                x=[round(x, 3) for x, _ in at],
                y=[round(y, 3) for _, y in at],
                mode="markers",
                marker={"size": 6, "color": colour, "line": {"width": 0}},
                hoverinfo="skip",
                name=f"read as {letter}",
                meta={"role": "ports"},
            )


def _look(node: Node, kind: str, pitch: float) -> _Look:
    large = max(5.0, min(20.0, pitch - 5))
    if kind == "component":
        symbol = "square" if node.site.endswith(".mlp") else "circle"
        legend = {"heads": "head", "mlp": "MLP"}.get(kind_of(node.site), _ENDS)
        return _Look(legend, symbol, NODE, large, node.connected)
    site = kind_of(node.site)
    small = max(4.0, min(11.0, pitch - 4))
    if not (node.connected or node.n_in or node.n_out):
        small = max(2.0, min(6.0, IDLE * pitch - 1))
    if site in ("attn_out", "mlp_out"):
        return _Look("channel written", "circle", NODE, small, node.connected)
    if site in STREAM:
        return _Look("channel read", "circle", None, small, node.connected)
    if site in LETTERS:
        return _Look(f"channel of {site}", "circle", LETTERS[site], large, node.connected)
    return _Look("neuron", "square", NODE, large, node.connected)


def _label(node: Node) -> str:
    if kind_of(node.site) == "heads":
        return str(node.index)
    return node.name if ":" not in node.name else str(node.index)


def _labelled(network: Network, positions: Sequence[Point], pitch: float) -> set[int]:
    """Nodes whose label fits: those on rails are named at the rail, others thin out by column."""
    by_column: dict[float, list[int]] = defaultdict(list)
    for number, node in enumerate(network.nodes):
        if network.kind == "component" or kind_of(node.site) not in STREAM:
            by_column[positions[number][0]].append(number)
    labelled: set[int] = set()
    for numbers in by_column.values():
        above = float("inf")
        for number in sorted(numbers, key=lambda i: -positions[i][1]):
            if (above - positions[number][1]) * pitch >= _LINE:
                labelled.add(number)
                above = positions[number][1]
    return labelled
