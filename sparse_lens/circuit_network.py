"""Circuits as networkx graphs, to draw or to walk."""

from __future__ import annotations

from collections import defaultdict

import networkx as nx

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.channel import ChannelGraph

EMBEDDING, LOGITS = "embedding", "logits"
"""The two ends of a channel graph, which only links touch."""


def to_networkx(circuit: Circuit, *, links: bool = False) -> nx.MultiDiGraph:
    """The kept nodes and edges, by their names, in forward order.

    Nodes have the attributes `site`, `layer` (None at the model's ends) and `index`; edges have
    `name`, `block` and `kind` ("edge" or "link"). In a component graph the edges into q, k and v
    of one head are parallel, with these letters as keys.

    Args:
        links: add the connections of a channel graph that are not edges, and with them the nodes
            `embedding` and `logits`. A component graph has none.
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
    for block in graph.edge_support:
        dst, src = graph.ordered_edges(block, circuit.edge_mask(block))
        for row, column in zip(dst.tolist(), src.tolist(), strict=True):
            name = graph.edge_name(block, row, column)
            source, _, reader = name.partition("->")
            destination, _, letter = reader.partition("<")
            key = letter.rstrip(">") or "edge"
            network.add_edge(source, destination, key=key, kind="edge", name=name, block=block)


def _stream_links(circuit: Circuit, graph: ChannelGraph) -> list[tuple[str, str]]:
    """Through the residual stream: the embedding and written channels to every later read."""
    found: list[tuple[str, str]] = []
    writers: dict[int, list[str]] = defaultdict(list)  # by channel, those passed so far

    def channels(site: str) -> list[int]:
        return circuit.node_masks[site].nonzero().flatten().tolist()

    def read(site: str, *, embedding: bool = True) -> None:
        for channel in channels(site):
            sources = [EMBEDDING] * embedding + writers[channel]
            found.extend((source, graph.node_name(site, channel)) for source in sources)

    def write(site: str) -> None:
        for channel in channels(site):
            writers[channel].append(graph.node_name(site, channel))

    for layer in range(graph.n_layers):
        at = f"blocks.{layer}"
        read(f"{at}.attn_in")
        if graph.parallel:
            read(f"{at}.mlp_in")
        write(f"{at}.attn_out")
        if graph.attn_only:
            continue
        if not graph.parallel:
            read(f"{at}.mlp_in")
        write(f"{at}.mlp_out")
    if not graph.has_final_resid:
        return found + [(name, LOGITS) for names in writers.values() for name in names]
    read("final_resid", embedding=False)
    final = channels("final_resid")
    return found + [(graph.node_name("final_resid", channel), LOGITS) for channel in final]


def _attention_links(circuit: Circuit, graph: ChannelGraph) -> list[tuple[str, str]]:
    """From q and k of a head to what its edges from v to attn_out write."""
    found = []
    for layer in range(graph.n_layers):
        at = f"blocks.{layer}"
        by_head = circuit.edge_mask(f"{at}.v->{at}.attn_out")
        by_head = by_head.unflatten(1, (graph.n_heads, graph.d_head)).any(2)  # [d_model, heads]
        for letter in "qk":
            for channel in circuit.node_masks[f"{at}.{letter}"].nonzero().flatten().tolist():
                written = by_head[:, channel // graph.d_head].nonzero().flatten().tolist()
                source = graph.node_name(f"{at}.{letter}", channel)
                found += [(source, graph.node_name(f"{at}.attn_out", out)) for out in written]
    return found
