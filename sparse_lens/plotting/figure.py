"""Figures of circuits and results as plotly objects, to show or to save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.plotting.curves import Curve, curves_spec
from sparse_lens.plotting.drawing import network_spec
from sparse_lens.plotting.frontier import FrontierMark, frontier_spec
from sparse_lens.plotting.network import MAX_EDGES, Network
from sparse_lens.plotting.sizes import SizeRow, sizes_spec
from sparse_lens.plotting.spec import Spec
from sparse_lens.plotting.theme import template
from sparse_lens.scores import Scores


def circuit_figure(
    circuit: Circuit,
    model: HookedTransformer | None = None,
    *,
    scores: Scores | None = None,
    title: str | None = None,
    max_edges: int = MAX_EDGES,
) -> go.Figure:
    """A circuit as a network, from its input at the left to its output at the right.

    In a channel graph every channel of the residual stream has a horizontal line through the
    drawing, on which nodes read and write; dotted lines are links, which are not edges. In a
    component graph a layer has a column of heads, each with ports for q, k and v, and one of the
    MLP. Nodes and edges on no path from input to output are grey.

    Args:
        model: gives the edges of a channel graph their weights: sign by colour, size by width.
        scores: of the same graph; in hover texts, and drawn like weights where there are none.
        max_edges: the most edges to draw, of a larger circuit the strongest, with a note.

    Raises:
        ValueError: when model or scores belong to another graph.
    """
    network = Network.of(circuit, model, scores=scores, max_edges=max_edges)
    return figure_of(network_spec(network, title=title))


def curves_figure(
    curves: Sequence[Curve],
    *,
    y_title: str = "",
    log_y: bool = False,
    level: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Values over the number of edges; see `sparse_lens.plotting.curves.curves_spec`."""
    return figure_of(curves_spec(curves, y_title=y_title, log_y=log_y, level=level, title=title))


def sizes_figure(
    tasks: Mapping[str, Sequence[SizeRow]],
    *,
    target_loss: float | None = None,
    unit: str = "edges",
) -> go.Figure:
    """Sizes of circuits task by task; see `sparse_lens.plotting.sizes.sizes_spec`."""
    return figure_of(sizes_spec(tasks, target_loss=target_loss, unit=unit))


def frontier_figure(marks: Sequence[FrontierMark]) -> go.Figure:
    """Models by pretraining loss and edges; see `sparse_lens.plotting.frontier.frontier_spec`."""
    return figure_of(frontier_spec(marks))


def figure_of(spec: Spec, *, mode: str = "light") -> go.Figure:
    """A plotly figure, validated by plotly, for a `light` or `dark` background."""
    figure = go.Figure(spec)
    return figure.update_layout(template=template(mode))
