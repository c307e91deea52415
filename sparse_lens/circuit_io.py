"""Circuits in files."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Bool, Int32, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph

FORMAT = "sparse-lens circuit 1"


def save(circuit: Circuit, path: str | os.PathLike[str]) -> None:
    """Write a circuit to one safetensors file; a file that is there is replaced in one step.

    The folder must exist. One bit per node, and for an edge circuit at most one bit per edge of
    the graph. The metadata hold the graph's fingerprint and, for people, its kind and the counts.
    """
    graph = circuit.graph
    tensors = {"nodes": _pack(graph.flatten(circuit.node_masks))}
    for block, mask in (circuit.edge_masks or {}).items():
        tensors[f"edges.{block}"] = _pack_few(mask[graph.edge_support[block]])
    metadata = {
        "format": FORMAT,
        "fingerprint": graph.fingerprint,
        "graph": _describe(graph),
        "given_by": "nodes" if circuit.is_node_circuit else "edges",
        "n_nodes": circuit.n_nodes,
        "n_edges": circuit.n_edges,
    }
    _write_atomically(Path(path), tensors, {"circuit": json.dumps(metadata)})


def load(path: str | os.PathLike[str], graph: Graph) -> Circuit:
    """Read a circuit of a graph.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a circuit, or one of another graph.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no circuit at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("circuit", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a saved circuit: {error}.") from error
    metadata = json.loads(header)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a saved circuit: expected the format {FORMAT!r}, "
            f"got {metadata.get('format')!r}."
        )
    if metadata["fingerprint"] != graph.fingerprint:
        raise ValueError(
            f"{path} holds a circuit of another graph: {metadata['graph']} with fingerprint "
            f"{metadata['fingerprint']}, got {_describe(graph)} with {graph.fingerprint}. "
            "Build the graph of the same model with the same options."
        )
    nodes = graph.unflatten(_unpack(tensors["nodes"], graph.n_nodes))
    if metadata["given_by"] == "nodes":
        return Circuit.from_node_masks(graph, nodes)
    edges = {}
    for block, support in graph.edge_support.items():
        edges[block] = torch.zeros(support.shape, dtype=torch.bool)
        packed = tensors[f"edges.{block}"]
        edges[block][support] = _unpack(packed, int(support.count_nonzero()))
    return Circuit.from_edge_masks(graph, edges, node_masks=nodes)


def _describe(graph: Graph) -> str:
    return (
        f"a {graph.kind} graph of {graph.n_layers} layers, {graph.n_nodes} nodes and "
        f"{graph.n_edges} edges"
    )


def _pack(bits: Bool[Tensor, " n"]) -> UInt8[Tensor, " bytes"]:
    return torch.from_numpy(np.packbits(bits.numpy()))


def _pack_few(bits: Bool[Tensor, " n"]) -> UInt8[Tensor, " bytes"] | Int32[Tensor, " k"]:
    """Bits, or the positions of those that are set where that is smaller."""
    positions = bits.nonzero().flatten()
    return positions.int() if 32 * len(positions) < len(bits) else _pack(bits)


def _unpack(packed: UInt8[Tensor, " bytes"] | Int32[Tensor, " k"], n: int) -> Bool[Tensor, " n"]:
    if packed.dtype == torch.int32:
        return torch.zeros(n, dtype=torch.bool).index_fill(0, packed.long(), True)
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=n)).bool()


def _write_atomically(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata=metadata))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
