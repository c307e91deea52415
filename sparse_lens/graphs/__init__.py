"""What can be in a circuit: nodes and edges of a model, as tensors."""

from sparse_lens.graphs.base import Ends, Graph, Site
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import ComponentGraph

__all__ = ["ChannelGraph", "ComponentGraph", "Ends", "Graph", "Site"]
