"""Safetensors files of one graph's tensors, with a JSON header that has the graph's fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparse_lens.atomic import write_atomically
from sparse_lens.graphs.base import Graph


def write(
    path: Path, kind: str, graph: Graph, tensors: dict[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write a file in one step.

    Args:
        kind: what the file holds, such as "circuit"; part of its format's name.
        header: any JSON; the format and the graph's fingerprint and description are added.

    Raises:
        FileNotFoundError: when the folder does not exist.
    """
    added = {"format": _format(kind), "fingerprint": graph.fingerprint, "graph": _describe(graph)}
    metadata = {kind: json.dumps({**added, **header})}
    write_atomically(path, safetensors.torch.save(tensors, metadata=metadata))


def read(path: Path, kind: str, graph: Graph) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is not of this kind, or belongs to another graph.
    """
    header = read_header(path, kind)
    if header["fingerprint"] != graph.fingerprint:
        raise ValueError(
            f"{path} holds a {kind} of another graph: {header['graph']} with fingerprint "
            f"{header['fingerprint']}, got {_describe(graph)} with {graph.fingerprint}. "
            "Build the graph of the same model with the same options."
        )
    return safetensors.torch.load_file(path), header


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """The header of a file of any graph.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is not of this kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(kind, "{}"))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a saved {kind}: {error}.") from error
    if header.get("format") != _format(kind):
        raise ValueError(
            f"{path} is not a saved {kind}: expected the format {_format(kind)!r}, "
            f"got {header.get('format')!r}."
        )
    return header


def graph_kind(header: Mapping[str, Any]) -> str:
    """The kind of graph that a file belongs to, `channel` or `component`."""
    return header["graph"].split()[1]  # see `_describe`


def _format(kind: str) -> str:
    return f"sparse-lens {kind} 1"


def _describe(graph: Graph) -> str:
    return (
        f"a {graph.kind} graph of {graph.n_layers} layers, {graph.n_nodes} nodes and "
        f"{graph.n_edges} edges"
    )
