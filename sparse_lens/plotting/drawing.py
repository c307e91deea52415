"""The figure of a circuit: a network with its layers from left to right."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from sparse_lens.plotting.channel_layout import channel_layout
from sparse_lens.plotting.component_layout import component_layout
from sparse_lens.plotting.edge_traces import edge_traces, link_traces, polylines
from sparse_lens.plotting.layout import Layout
from sparse_lens.plotting.network import Network
from sparse_lens.plotting.node_traces import end_traces, node_traces, port_traces
from sparse_lens.plotting.profiles import LEVELS
from sparse_lens.plotting.spec import Spec, scatter

_ROWS_HEIGHT = 720
"""Pixels; rows that would take more are drawn closer together."""

_COLUMN_WIDTH = 58
"""Least pixels from column to column."""

_LABEL_HEIGHT = 11
"""Pixels that the label of a rail needs."""

_BAND_COLOUR, _BORDER_COLOUR = "rgba(127,137,150,0.08)", "rgba(127,137,150,0.45)"


def network_spec(network: Network, *, title: str | None = None) -> Spec:
    """The figure of a circuit, from `Network.of` or `Network.from_json`."""
    is_channel = network.kind == "channel"
    layout = channel_layout(network) if is_channel else component_layout(network)
    # Pixels from row to row.
    pitch = min(24.0 if is_channel else 30.0, max(7.0, _ROWS_HEIGHT / layout.height))
    traces: list[Spec] = [*link_traces(layout), *edge_traces(network, layout)]
    if layout.boxes:
        traces.insert(0, _boxes(layout))
    traces += end_traces(layout)
    traces += port_traces(layout)
    traces += node_traces(network, layout, pitch)
    return {"data": traces, "layout": _frame(network, layout, pitch, title)}


def _frame(network: Network, layout: Layout, pitch: float, title: str | None) -> dict[str, Any]:
    top = 96 if title else 64
    min_width = round(layout.width * _COLUMN_WIDTH + 110)
    hidden_axis = {"showgrid": False, "zeroline": False, "showline": False, "ticks": ""}
    labels = _rail_labels(layout, pitch)
    low, high = -0.3, layout.height + (0.9 if layout.boxes else 0.3)
    return {
        "title": {"text": escape(title), "y": 0.99, "yanchor": "top"} if title else None,
        "height": round((high - low) * pitch + top + 60),
        "margin": {"l": 48, "r": 24, "t": top, "b": 60},
        "meta": {"min_width": min_width, "profiles": _profiles(network)},
        "xaxis": {
            **hidden_axis,
            "showticklabels": False,
            "range": [-0.3, layout.width + 0.3],
        },
        "yaxis": {
            **hidden_axis,
            "tickmode": "array",
            "tickvals": [row for row, _ in labels],
            "ticktext": [label for _, label in labels],
            "tickfont": {"size": 9},
            "range": [low, high],
        },
        "shapes": [_band_shape(band.start, band.stop) for band in layout.bands],
        "annotations": list(_annotations(network, layout, pitch)),
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "paper", "yanchor": "top"},
        "hovermode": "closest",
        "hoverdistance": 14,
        "dragmode": "pan",
    }


def _profiles(network: Network) -> dict[str, Any] | None:
    """The profiles for the page's script, with the numbers of their nodes in the drawing."""
    if network.profiles is None:
        return None
    numbers = {node.name: number for number, node in enumerate(network.nodes)}
    values = network.profiles.to_dict()
    profiled = [numbers[name] for name in values["nodes"]["name"]]
    return {**values, "numbers": profiled, "levels": LEVELS}


def _rail_labels(layout: Layout, pitch: float) -> list[tuple[float, str]]:
    """Rows and labels of rails from the top down, as many as fit."""
    labels: list[tuple[float, str]] = []
    for row, label in sorted(layout.rails, reverse=True):
        if not labels or (labels[-1][0] - row) * pitch >= _LABEL_HEIGHT:
            labels.append((row, label))
    return labels


def _band_shape(start: float, stop: float) -> dict[str, Any]:
    return {
        "type": "rect",
        "x0": start,
        "x1": stop,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "fillcolor": _BAND_COLOUR,
        "line": {"width": 0},
        "layer": "below",
    }


def _annotations(network: Network, layout: Layout, pitch: float) -> Iterator[dict[str, Any]]:
    above = {"showarrow": False, "yref": "paper", "y": 1, "yanchor": "bottom"}
    for band in layout.bands:
        centre = (band.start + band.stop) / 2
        yield {**above, "x": centre, "text": f"<b>{band.label}</b>", "yshift": 20}
        if band.is_empty:
            yield {**above, "x": centre, "text": "nothing kept", "font": {"size": 10}}
    for x, heading in [*layout.headings, *((x, name) for name, x in layout.ends)]:
        yield {**above, "x": x, "text": heading, "font": {"size": 10}}
    if pitch >= 8:  # closer rows leave no room for the labels of boxes
        for box in layout.boxes:
            yield {
                "showarrow": False,
                "x": box.low[0],
                "y": box.high[1],
                "xanchor": "left",
                "yanchor": "bottom",
                "text": box.label,
                "font": {"size": 9},
                "yshift": -2,
            }
    if not network.nodes:
        middle = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False}
        yield {**middle, "text": "This circuit keeps no node and no edge.", "font": {"size": 14}}
    if len(network.edges) < network.n_edges:
        have_strength = any(edge.strength is not None for edge in network.edges)
        which = "the strongest" if have_strength else "only"
        yield {  # on the left, as the tools are on the right
            **above,
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "yshift": 42,
            "text": f"{which} {len(network.edges):,} of {network.n_edges:,} edges are drawn",
        }


def _boxes(layout: Layout) -> Spec:
    """Frames of heads, as one trace."""
    frames = []
    for box in layout.boxes:
        (x0, y0), (x1, y1) = box.low, box.high
        frames.append([(x0, y0), (x0, y1), (x1, y1), (x1, y0), (x0, y0)])
    x, y = polylines(frames)
    return scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": _BORDER_COLOUR, "width": 1},
        hoverinfo="skip",
        showlegend=False,
        name="heads",
        meta={"role": "boxes"},
    )
