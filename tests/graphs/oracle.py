"""The slow way to find what lies on a path: networkx over names, one Python object per edge."""

import itertools
import re

import networkx as nx

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ComponentGraph, Graph

START, END = "START", "END"


def on_paths(circuit: Circuit) -> tuple[set[str], set[str]]:
    """Names of the nodes and edges on a path from input to output, by the definitions.

    Every edge is a vertex of its own, so that links can lead to edges.
    """
    graph = circuit.graph
    network = nx.DiGraph()
    network.add_nodes_from((START, END))
    for edge in circuit.edge_names():
        source, destination = ends(edge)
        network.add_edge(source, edge)
        network.add_edge(edge, destination)
    kept = set(circuit.node_names())
    network.add_nodes_from(kept)
    if isinstance(graph, ComponentGraph):
        network.add_edges_from((START, name) for name in ("input", "embed", "pos") if name in kept)
        if "logits" in kept:
            network.add_edge("logits", END)
    else:
        network.add_edges_from(channel_links(circuit))
    on_path = nx.descendants(network, START) & nx.ancestors(network, END)
    edges = {edge for edge in circuit.edge_names() if edge in on_path}
    # A v without a path from the input stays as the end of an edge that its head's q or k reaches.
    nodes = (on_path & kept) | {end for edge in edges for end in ends(edge)}
    return nodes, edges


def ends(edge: str) -> tuple[str, str]:
    """The names of the two nodes that an edge joins."""
    source, destination = edge.split("->")
    return source, destination.split("<")[0]


def channel_links(circuit: Circuit) -> list[tuple[str, str]]:
    """All links: between two kept nodes, from a node to an edge, and at the model's ends."""
    graph = circuit.graph
    nodes = [(name, *parse_node(name)) for name in circuit.node_names()]
    links = [(START, name) for name, _, site, _ in nodes if site in ("attn_in", "mlp_in")]
    for writer, reader in itertools.permutations(nodes, 2):
        writer_name, write_layer, write_site, write_channel = writer
        reader_name, read_layer, read_site, read_channel = reader
        if (
            write_site in ("attn_out", "mlp_out")
            and write_channel == read_channel
            and is_later(graph, (write_layer, write_site), (read_layer, read_site))
        ):
            links.append((writer_name, reader_name))
    edges = [edge for edge in circuit.edge_names() if ".attn_out:" in edge]
    for name, layer, site, index in nodes:
        for edge in edges if site in ("q", "k") else ():
            _, v_layer, _, v_index = (edge, *parse_node(ends(edge)[0]))
            if v_layer == layer and v_index // graph.d_head == index // graph.d_head:
                links.append((name, edge))
    has_final = "final_resid" in graph.sites
    last_sites = ("final_resid",) if has_final else ("attn_out", "mlp_out")
    return links + [(name, END) for name, _, site, _ in nodes if site in last_sites]


def parse_node(name: str) -> tuple[int, str, int]:
    """Layer, kind of site and channel of a node."""
    match = re.fullmatch(r"(?:blocks\.(\d+)\.)?(\w+):(\d+)", name)
    assert match is not None
    return int(match[1] or 10**6), match[2], int(match[3])


def is_later(graph: Graph, write: tuple[int, str], read: tuple[int, str]) -> bool:
    """Whether a site, given by layer and kind, reads the stream after another has written to it."""
    if read[1] not in ("attn_in", "mlp_in", "final_resid"):
        return False
    if write[0] != read[0]:
        return write[0] < read[0]
    return write[1] == "attn_out" and read[1] == "mlp_in" and not graph.parallel
