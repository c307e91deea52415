"""The order in which ACDC tests edges: from the output backwards."""

from collections.abc import Iterator

from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import EDGES, LETTERS, ComponentGraph

Rows = tuple[str, range]
"""A block, and rows (readers) of it in the order in which they are visited."""


def sublayers_from_the_output(graph: Graph) -> Iterator[Rows]:
    """Blocks and their rows in the order in which ACDC visits them.

    On a component graph: the logits; then, from the last layer to the first, the MLP, v of all
    heads in ascending order, k of all, q of all. On a channel graph, from the last layer to the
    first: mlp_out, mlp_post, attn_out, v, k, q, each in ascending order of channels. A reader's
    writers are tested from the latest (the highest column) backwards.
    """
    if isinstance(graph, ComponentGraph):
        for rows in _component_rows(graph):
            yield EDGES, range(rows.start, rows.stop)
    elif isinstance(graph, ChannelGraph):
        for name, block in reversed([*graph.blocks.items()]):
            yield name, range(len(block.dst_nodes))
    else:
        raise ValueError(f"ACDC runs on component and channel graphs, got {type(graph).__name__}.")


def _component_rows(graph: ComponentGraph) -> Iterator[slice]:
    yield graph.logits_reader
    for sublayer in reversed(graph.sublayers):
        if sublayer.kind == "mlp":
            yield sublayer.readers
        else:
            yield from (sublayer.readers_of(letter) for letter in reversed(LETTERS))
