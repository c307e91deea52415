"""Circuits and results as plotly figures."""

from sparse_lens.plotting.figure import circuit_figure, network_figure
from sparse_lens.plotting.network import Network

__all__ = ["Network", "circuit_figure", "network_figure"]
