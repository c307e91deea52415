"""Graphs: the nodes and edges of a model that a circuit can keep, as tensors."""

from sparse_lens.graphs.base import Block, Graph, Site
from sparse_lens.graphs.channel import ChannelBlock, ChannelGraph
from sparse_lens.graphs.component import ComponentGraph, Sublayer

__all__ = ["Block", "ChannelBlock", "ChannelGraph", "ComponentGraph", "Graph", "Site", "Sublayer"]
