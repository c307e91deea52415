"""Circuits and results as plotly figures."""

from sparse_lens.plotting.curves import Curve
from sparse_lens.plotting.figure import circuit_figure, curves_figure, figure_of, sizes_figure
from sparse_lens.plotting.network import Network
from sparse_lens.plotting.sizes import SizeRow

__all__ = [
    "Curve",
    "Network",
    "SizeRow",
    "circuit_figure",
    "curves_figure",
    "figure_of",
    "sizes_figure",
]
