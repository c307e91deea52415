"""Graphs in the JSON format of EAP-IG's program (Hanna et al. 2403.17806)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from sparse_lens.atomic import write_atomically
from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph, did_you_mean
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.scores import Scores

Source = str | os.PathLike[str] | Mapping[str, Any]
"""A file, or its content."""


def to_json(
    circuit: Circuit, path: str | os.PathLike[str] | None = None, *, scores: Scores | None = None
) -> dict[str, Any]:
    """Every node and edge of the graph, and whether the circuit has it; also written to `path`.

    Args:
        scores: of the edges. The format requires them; without, they are 0.0.

    Raises:
        ValueError: for a channel graph, split embeddings, or scores that are not of its edges.
    """
    graph = _check_graph(circuit.graph)
    names = list(_edge_names(graph))
    if scores is None:
        values = dict.fromkeys(names, 0.0)
    elif scores.edges is None or scores.graph != graph:
        raise ValueError("scores must be edge scores of the circuit's own graph.")
    else:
        values = scores.by_name()
    kept_nodes, kept_edges = set(circuit.node_names()), set(circuit.edge_names())
    document = {
        "cfg": _layout(graph),
        "nodes": {name: {"in_graph": name in kept_nodes} for name in graph.node_names()},
        "edges": {name: {"score": values[name], "in_graph": name in kept_edges} for name in names},
    }
    if path is not None:
        write_atomically(Path(path), json.dumps(document).encode())
    return document


def circuit_from_json(graph: Graph, source: Source) -> Circuit:
    """The edge circuit of the edges that are in the file's circuit together with both their ends.

    Raises:
        ValueError: when the file is of another model, or has nodes or edges that the graph lacks.
    """
    graph = _check_graph(graph)
    document = _read(graph, source)
    kept_nodes = {name for name, node in document["nodes"].items() if node["in_graph"]}
    pruned_nodes = set(graph.node_names()) - kept_nodes
    edges = [
        name
        for name, edge in document["edges"].items()
        if edge["in_graph"] and pruned_nodes.isdisjoint(_ends(name))
    ]
    return Circuit.from_edge_names(graph, edges)


def scores_from_json(graph: Graph, source: Source) -> Scores:
    """The scores of the edges, in float64.

    Raises:
        ValueError: when the file is of another model, or lacks an edge's score.
    """
    graph = _check_graph(graph)
    edges = _read(graph, source)["edges"]
    names = list(graph.edge_names())
    missing = [name for name in names if edges.get(name, {}).get("score") is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} edges have no score, the first is {missing[0]!r}."
        )
    values = torch.tensor([edges[name]["score"] for name in names], dtype=torch.float64)
    return Scores(graph, edges=graph.unflatten_edges(values))


def _check_graph(graph: Graph) -> ComponentGraph:
    if not isinstance(graph, ComponentGraph) or graph.split_embeddings:
        raise ValueError(
            f"EAP-IG's format is for component graphs with one input, got {graph}; "
            "use Circuit.save and Circuit.load."
        )
    return graph


def _edge_names(graph: ComponentGraph) -> Iterator[str]:
    """Edges in the order of EAP-IG's files: by layer, then by writer, then by reader.

    Among the readers, q, k and v of a head follow each other, and a parallel MLP comes after the
    heads of its layer.
    """
    groups: list[list[str]] = []
    for sublayer in graph.sublayers:
        readers = graph.readers[sublayer.readers]
        if sublayer.kind == "heads":
            groups.append(rearrange(np.array(readers), "(qkv head) -> (head qkv)", qkv=3).tolist())
        elif graph.parallel:
            groups[-1] += readers
        else:
            groups.append(list(readers))
    groups.append(["logits"])
    for readers in groups:
        n_writers = graph.n_before(graph.readers.index(readers[0]))
        for writer in graph.writers[:n_writers]:
            yield from (f"{writer}->{reader}" for reader in readers)


def _layout(graph: ComponentGraph) -> dict[str, Any]:
    return {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": graph.d_model,
    }


def _read(graph: ComponentGraph, source: Source) -> Mapping[str, Any]:
    """The content of a file, checked against the graph's layout and nodes."""
    if isinstance(source, Mapping):
        document = source
    else:
        try:
            document = json.loads(Path(source).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{source} is not JSON: {error}.") from error
    missing = [key for key in ("cfg", "nodes", "edges") if key not in document]
    if missing:
        raise ValueError(f"this is not a graph of EAP-IG: it lacks {', '.join(missing)}.")
    for key, value in _layout(graph).items():
        if document["cfg"].get(key, value) != value:
            raise ValueError(
                f"this file is of another model: its {key} is {document['cfg'][key]}, "
                f"the graph's is {value}."
            )
    graph_nodes = set(graph.node_names())
    for name in document["nodes"]:
        if name not in graph_nodes:
            hint = did_you_mean(name, sorted(graph_nodes))
            raise ValueError(f"{graph} has no node {name!r}.{hint}")
    return document


def _ends(edge: str) -> tuple[str, str]:
    """The names of an edge's nodes: `a0.h1->a2.h0<q>` is from `a0.h1` to `a2.h0`."""
    writer, _, reader = edge.partition("->")
    return writer, reader.partition("<")[0]
