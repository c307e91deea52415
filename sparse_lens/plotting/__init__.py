"""Circuits and results as plotly figures."""

from sparse_lens.plotting.curves import Curve
from sparse_lens.plotting.figure import (
    circuit_figure,
    curves_figure,
    figure_of,
    frontier_figure,
    sizes_figure,
)
from sparse_lens.plotting.frontier import FrontierMark
from sparse_lens.plotting.network import Network
from sparse_lens.plotting.sizes import SizeRow

__all__ = [
    "Curve",
    "FrontierMark",
    "Network",
    "SizeRow",
    "circuit_figure",
    "curves_figure",
    "figure_of",
    "frontier_figure",
    "sizes_figure",
]
