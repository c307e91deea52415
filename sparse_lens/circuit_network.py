"""Circuits as networkx graphs."""

from __future__ import annotations

from collections import defaultdict

import networkx as nx

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph, Site
from sparse_lens.graphs.channel import ChannelGraph

EMBEDDING, LOGITS = "embedding", "logits"
"""The nodes that stand for a channel graph's input and output; only links join them to others."""


def to_networkx(circuit: Circuit, *, links: bool = False) -> nx.MultiDiGraph:
    """The kept nodes and edges, by their names, in forward order.

    Nodes have the attributes `site`, `layer` (None outside the layers) and `index`; edges have
    `name`, `block` and `kind` ("edge" or "link"). In a component graph the edges into q, k and v
    of one head are parallel, with these letters as keys.

    Args:
        links: add the links of a channel graph (see `sparse_lens.graphs.reachability`), and the
            nodes `embedding` and `logits` that they start and end at. A component graph has none.
    """
    graph, network = circuit.graph, nx.MultiDiGraph()
    with_links = links and isinstance(graph, ChannelGraph)
    if with_links:
        network.add_node(EMBEDDING, site=EMBEDDING, layer=None, index=0)
    for site, mask in circuit.node_masks.items():
        for index in mask.nonzero().flatten().tolist():
            name = graph.node_name(site, index)
            network.add_node(name, site=site, layer=graph.sites[site].layer, index=index)
    _add_edges(network, circuit, graph)
    if with_links and isinstance(graph, ChannelGraph):
        network.add_node(LOGITS, site=LOGITS, layer=None, index=0)
        for source, destination in _stream_links(circuit, graph) + _attention_links(circuit, graph):
            network.add_edge(source, destination, key="link", kind="link", name=None, block=None)
    return network


def _add_edges(network: nx.MultiDiGraph, circuit: Circuit, graph: Graph) -> None:
    nodes = list(graph.node_names())
    for name, block in graph.blocks.items():
        for row, column in circuit.edge_mask(name).nonzero().tolist():
            network.add_edge(
                nodes[block.src_nodes[column]],
                nodes[block.dst_nodes[row]],
                key=graph.port(name, row) or "edge",
                kind="edge",
                name=graph.edge_name(name, row, column),
                block=name,
            )


def _stream_links(circuit: Circuit, graph: ChannelGraph) -> list[tuple[str, str]]:
    """Links through the residual stream: from the embedding and written channels to later reads."""
    links: list[tuple[str, str]] = []
    writers: dict[int, list[str]] = defaultdict(list)  # by channel, the nodes that wrote to it

    def channels(site: Site) -> list[int]:
        return circuit.node_masks[site.name].nonzero().flatten().tolist()

    def read(site: Site, *, embedding: bool = True) -> None:
        for channel in channels(site):
            sources = [EMBEDDING] * embedding + writers[channel]
            links.extend((source, graph.node_name(site.name, channel)) for source in sources)

    def write(site: Site) -> None:
        for channel in channels(site):
            writers[channel].append(graph.node_name(site.name, channel))

    for layer in range(graph.n_layers):
        read(graph.site(layer, "attn_in"))
        if graph.parallel:
            read(graph.site(layer, "mlp_in"))
        write(graph.site(layer, "attn_out"))
        if graph.attn_only:
            continue
        if not graph.parallel:
            read(graph.site(layer, "mlp_in"))
        write(graph.site(layer, "mlp_out"))
    if not graph.has_final_resid:
        return links + [(name, LOGITS) for names in writers.values() for name in names]
    final = graph.sites["final_resid"]
    read(final, embedding=False)
    return links + [(graph.node_name(final.name, channel), LOGITS) for channel in channels(final)]


def _attention_links(circuit: Circuit, graph: ChannelGraph) -> list[tuple[str, str]]:
    """Links through attention patterns: from q and k of a head to the channels that it writes."""
    links = []
    for layer in range(graph.n_layers):
        block = graph.block(layer, "v", "attn_out")
        kept = circuit.edge_mask(block.name)  # [d_model, n_heads * d_head]
        writes = kept.unflatten(1, (graph.n_heads, graph.d_head)).any(2)  # [d_model, n_heads]
        for letter in "qk":
            site = graph.site(layer, letter).name
            for channel in circuit.node_masks[site].nonzero().flatten().tolist():
                source, head = graph.node_name(site, channel), channel // graph.d_head
                for written in writes[:, head].nonzero().flatten().tolist():
                    links.append((source, graph.node_name(block.destination.name, written)))
    return links
