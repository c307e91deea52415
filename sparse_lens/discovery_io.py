"""Discoveries in files, to be evaluated later without running the method again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from sparse_lens import circuit_io, graph_file
from sparse_lens.calibration import Calibration
from sparse_lens.circuit import Circuit
from sparse_lens.cost import Cost
from sparse_lens.dataclass_json import Fetch, Store, from_json, make, to_json
from sparse_lens.discovery import Discovery
from sparse_lens.graphs.base import Graph
from sparse_lens.method import Method, registry
from sparse_lens.scores import Scores
from sparse_lens.search import ChosenCircuit

KIND = "discovery"


def save(discovery: Discovery, path: str | os.PathLike[str]) -> None:
    """Write a discovery to one safetensors file; a file that is there is replaced in one step.

    The folder must exist. Tensors are the scores (of edges: those of the graph's edges alone) and
    the masks of all circuits, those that the method started from included; everything else is
    JSON in the metadata, the method by its registered name, class and fields.

    Raises:
        ValueError: when the method has a field that cannot be written down, such as a circuit of
            another graph.
        FileNotFoundError: when there is no such folder.
    """
    graph, chosen = discovery.scores.graph, discovery.chosen
    tensors = _prefixed("scores.", _pack_scores(discovery.scores))
    starts = _Starts(graph)
    header = {
        "method": _name_method(discovery.method, starts.store),
        "task": discovery.task,
        "seed": discovery.seed,
        "absolute": discovery.scores.absolute,
        "greedy": discovery.scores.greedy,
        "cost": asdict(discovery.cost),
        "versions": dict(discovery.versions),
        "history": [{k: float(v) for k, v in row.items()} for row in discovery.history],
        "warnings": list(discovery.warnings),
        "circuits": [circuit_io.given_by(circuit) for circuit in discovery.circuits],
        "chosen": None,
    }
    if chosen is not None:
        header["chosen"] = {
            "given_by": circuit_io.given_by(chosen.circuit),
            "loss": chosen.loss,
            "met_target": chosen.met_target,
            "tried": chosen.tried,
            "calibration": chosen.calibration and asdict(chosen.calibration),
        }
        tensors |= _prefixed("chosen.", circuit_io.to_tensors(chosen.circuit))
    for i, circuit in enumerate(discovery.circuits):
        tensors |= _prefixed(f"circuits.{i}.", circuit_io.to_tensors(circuit))
    graph_file.write(Path(path), KIND, graph, tensors | starts.tensors, header)


def load(path: str | os.PathLike[str], graph: Graph) -> Discovery:
    """Read a discovery on a graph.

    Nothing that the file names is imported: a method that is not registered, and the classes of
    its fields, must have been imported before.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a discovery, one on another graph, or its method is not known.
    """
    path = Path(path)
    tensors, header = graph_file.read(path, KIND, graph)
    try:
        method = _find_method(header["method"], _Starts(graph, tensors).fetch)
    except ValueError as error:
        raise ValueError(f"the method of {path} cannot be made again: {error}") from error
    return Discovery(
        method=method,
        task=header["task"],
        scores=_unpack_scores(graph, _under("scores.", tensors), header),
        chosen=_chosen(graph, header["chosen"], tensors),
        cost=Cost(**header["cost"]),
        seed=header["seed"],
        history=tuple(header["history"]),
        warnings=tuple(header.get("warnings", ())),  # older files say nothing of them
        circuits=tuple(
            circuit_io.from_tensors(graph, given_by, _under(f"circuits.{i}.", tensors))
            for i, given_by in enumerate(header["circuits"])
        ),
        versions=header["versions"],
    )


class _Starts:
    """Scores and circuits that a method holds, such as those that it starts from, as tensors."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor] | None = None) -> None:
        self._graph = graph
        self.tensors = dict(tensors or {})
        self._count = 0

    def store(self, value: Any) -> dict[str, Any] | None:
        """Keep one of these; where, and what is not in the tensors."""
        if not isinstance(value, (Scores, Circuit)):
            return None
        if value.graph != self._graph:
            raise ValueError(
                f"the method holds {value!r}, which belongs to another graph than the discovery."
            )
        prefix = f"method.{self._count}."
        self._count += 1
        if isinstance(value, Circuit):
            self.tensors |= _prefixed(prefix, circuit_io.to_tensors(value))
            return {"circuit": prefix, "given_by": circuit_io.given_by(value)}
        self.tensors |= _prefixed(prefix, _pack_scores(value))
        return {"scores": prefix, "absolute": value.absolute, "greedy": value.greedy}

    def fetch(self, where: Mapping[str, Any]) -> Scores | Circuit:
        """What was kept there."""
        if "circuit" in where:
            tensors = _under(where["circuit"], self.tensors)
            return circuit_io.from_tensors(self._graph, where["given_by"], tensors)
        tensors = _under(where["scores"], self.tensors)
        return _unpack_scores(self._graph, tensors, where)


def _name_method(method: Method, store: Store) -> dict[str, Any]:
    names = {cls: name for name, cls in registry().items()}
    return {"name": names.get(type(method)), **to_json(method, store)}


def _find_method(named: Mapping[str, Any], fetch: Fetch) -> Method:
    registered = registry()
    if named["name"] in registered:  # wherever its class lives by now
        method = make(registered[named["name"]], named["fields"], fetch)
    else:
        method = from_json({"class": named["class"], "fields": named["fields"]}, fetch)
    if not isinstance(method, Method):
        raise ValueError(f"{named['class']} is no circuit-finding method.")
    return method


def _chosen(
    graph: Graph, header: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]
) -> ChosenCircuit | None:
    if header is None:
        return None
    calibration = header["calibration"]
    return ChosenCircuit(
        circuit=circuit_io.from_tensors(graph, header["given_by"], _under("chosen.", tensors)),
        loss=header["loss"],
        met_target=header["met_target"],
        tried=tuple((size, loss) for size, loss in header["tried"]),
        calibration=None if calibration is None else Calibration(**calibration),
    )


def _pack_scores(scores: Scores) -> dict[str, Tensor]:
    if scores.nodes is not None:
        return {f"nodes.{site}": s.contiguous() for site, s in scores.nodes.items()}
    blocks = scores.graph.blocks
    return {f"edges.{b}": blocks[b].flatten(matrix) for b, matrix in (scores.edges or {}).items()}


def _unpack_scores(graph: Graph, tensors: Mapping[str, Tensor], ranks: Mapping[str, Any]) -> Scores:
    """Scores of packed tensors, and of a header that says how they rank.

    A file need not say of a method's initial scores that they rank by absolute value.
    """
    order = {"absolute": ranks.get("absolute", True), "greedy": ranks["greedy"]}
    nodes = _under("nodes.", tensors)
    if nodes:
        return Scores(graph, nodes=nodes, **order)
    edges = {
        block: graph.blocks[block].unflatten(packed)
        for block, packed in _under("edges.", tensors).items()
    }
    return Scores(graph, edges=edges, **order)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
