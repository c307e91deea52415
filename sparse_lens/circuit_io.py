"""Circuits in safetensors files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int32, UInt8
from safetensors import safe_open
from torch import Tensor

from sparse_lens import graph_file
from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph

KIND = "circuit"


def save(circuit: Circuit, path: str | os.PathLike[str]) -> None:
    """Write a circuit to one safetensors file; an existing file is replaced in one step.

    The folder must exist. The file has one bit per node, and for an edge circuit at most one bit
    per edge of the graph. The metadata hold the graph's fingerprint and, to be read by people, its
    description and the circuit's counts.
    """
    header = {
        "given_by": given_by(circuit),
        "n_nodes": circuit.n_nodes,
        "n_edges": circuit.n_edges,
    }
    graph_file.write(Path(path), KIND, circuit.graph, to_tensors(circuit), header)


def load(path: str | os.PathLike[str], graph: Graph) -> Circuit:
    """Read a circuit of a graph.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is not a circuit, or one of another graph.
    """
    tensors, header = graph_file.read(Path(path), KIND, graph)
    return from_tensors(graph, header["given_by"], tensors)


@dataclass(frozen=True, eq=False)
class SavedParts:
    """The nodes or edges that a saved circuit keeps, read without its graph."""

    path: Path

    fingerprint: str
    """The graph's."""

    given_by: str
    """`nodes` or `edges`."""

    kept: tuple[np.ndarray, ...]
    """Indices of the kept nodes, one array; or of the kept edges of each block, one array each."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SavedParts:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: when the file does not exist.
            ValueError: when it is not a circuit.
        """
        path = Path(path)
        header = graph_file.read_header(path, KIND)
        with safe_open(path, framework="numpy") as file:
            is_node_circuit = header["given_by"] == "nodes"
            names = [name for name in sorted(file.keys()) if (name == "nodes") == is_node_circuit]
            tensors = [file.get_tensor(name) for name in names]
        kept = tuple(t if t.dtype == np.int32 else np.unpackbits(t).nonzero()[0] for t in tensors)
        return cls(path, header["fingerprint"], header["given_by"], kept)

    def __len__(self) -> int:
        return sum(map(len, self.kept))

    def iou(self, other: SavedParts) -> float:
        """`Circuit.iou` of the two.

        Raises:
            ValueError: when they are of different graphs, or one is given by its nodes and the
                other by its edges.
        """
        for name in ("fingerprint", "given_by"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"{self.path} and {other.path} cannot be compared as files: their {name} are "
                    f"{getattr(self, name)} and {getattr(other, name)}. Load both with their "
                    "graphs."
                )
        pairs = zip(self.kept, other.kept, strict=True)
        both = sum(len(np.intersect1d(*pair, assume_unique=True)) for pair in pairs)
        either = len(self) + len(other) - both
        return both / either if either else 1.0


def given_by(circuit: Circuit) -> str:
    """`nodes` for a node circuit, `edges` for an edge circuit."""
    return "nodes" if circuit.is_node_circuit else "edges"


def to_tensors(circuit: Circuit) -> dict[str, Tensor]:
    """A circuit's masks, packed, by their names in a file."""
    graph = circuit.graph
    tensors = {"nodes": _pack(graph.flatten(circuit.node_masks))}
    for block, mask in (circuit.edge_masks or {}).items():
        tensors[f"edges.{block}"] = _pack_smaller(graph.blocks[block].flatten(mask))
    return tensors


def from_tensors(graph: Graph, given_by: str, tensors: Mapping[str, Tensor]) -> Circuit:
    """The circuit that `to_tensors` packed."""
    nodes = graph.unflatten(_unpack(tensors["nodes"], graph.n_nodes))
    if given_by == "nodes":
        return Circuit.from_node_masks(graph, nodes)
    edges = {
        name: block.unflatten(_unpack(tensors[f"edges.{name}"], block.n_edges))
        for name, block in graph.blocks.items()
    }
    return Circuit.from_edge_masks(graph, edges, node_masks=nodes)


def _pack(bits: Bool[Tensor, " n"]) -> UInt8[Tensor, " bytes"]:
    return torch.from_numpy(np.packbits(bits.numpy()))


def _pack_smaller(bits: Bool[Tensor, " n"]) -> UInt8[Tensor, " bytes"] | Int32[Tensor, " k"]:
    """The bits, or the indices of those that are set, whichever takes less memory."""
    indices = bits.nonzero().flatten()
    return indices.int() if 32 * len(indices) < len(bits) else _pack(bits)


def _unpack(packed: UInt8[Tensor, " bytes"] | Int32[Tensor, " k"], n: int) -> Bool[Tensor, " n"]:
    if packed.dtype == torch.int32:
        return torch.zeros(n, dtype=torch.bool).index_fill(0, packed.long(), True)
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=n)).bool()
