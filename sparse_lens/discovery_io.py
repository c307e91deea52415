"""Discoveries in safetensors files."""

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
    """Write a discovery to one safetensors file; an existing file is replaced in one step.

    The folder must exist. The tensors are the scores (edge scores at edges only) and the masks of
    all circuits, including scores and circuits in the method's fields. Everything else is JSON in
    the metadata; the method is given by its registered name, class and fields.

    Raises:
        ValueError: when the method has a field that cannot be saved, such as a circuit of another
            graph.
        FileNotFoundError: when the folder does not exist.
    """
    graph, chosen = discovery.scores.graph, discovery.chosen
    tensors = _prefixed("scores.", _pack_scores(discovery.scores))
    method_tensors = _MethodTensors(graph)
    header = {
        "method": _method_to_json(discovery.method, method_tensors.store),
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
    graph_file.write(Path(path), KIND, graph, tensors | method_tensors.tensors, header)


def load(path: str | os.PathLike[str], graph: Graph) -> Discovery:
    """Read a discovery on a graph.

    Nothing that the file names is imported: a method that is not registered, and the classes of
    its fields, must have been imported before.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is not a discovery, one on another graph, or its method is unknown.
    """
    path = Path(path)
    tensors, header = graph_file.read(path, KIND, graph)
    try:
        method = _method_from_json(header["method"], _MethodTensors(graph, tensors).fetch)
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


class _MethodTensors:
    """Scores and circuits in a method's fields, such as those that it starts from, as tensors."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor] | None = None) -> None:
        self._graph = graph
        self.tensors = dict(tensors or {})
        self._count = 0

    def store(self, value: Any) -> dict[str, Any] | None:
        """Add the tensors of scores or a circuit.

        Returns:
            As JSON, the prefix of the tensors' names, and what the tensors do not say; None for
            other values.
        """
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

    def fetch(self, reference: Mapping[str, Any]) -> Scores | Circuit:
        """The scores or circuit for which `store` returned this reference."""
        if "circuit" in reference:
            tensors = _under(reference["circuit"], self.tensors)
            return circuit_io.from_tensors(self._graph, reference["given_by"], tensors)
        tensors = _under(reference["scores"], self.tensors)
        return _unpack_scores(self._graph, tensors, reference)


def _method_to_json(method: Method, store: Store) -> dict[str, Any]:
    names = {cls: name for name, cls in registry().items()}
    return {"name": names.get(type(method)), **to_json(method, store)}


def _method_from_json(saved: Mapping[str, Any], fetch: Fetch) -> Method:
    registered = registry()
    if saved["name"] in registered:  # its class may have moved to another module
        method = make(registered[saved["name"]], saved["fields"], fetch)
    else:
        method = from_json({"class": saved["class"], "fields": saved["fields"]}, fetch)
    if not isinstance(method, Method):
        raise ValueError(f"{saved['class']} is not a circuit-finding method.")
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
        return {f"nodes.{site}": values.contiguous() for site, values in scores.nodes.items()}
    blocks = scores.graph.blocks
    return {
        f"edges.{name}": blocks[name].flatten(values)
        for name, values in (scores.edges or {}).items()
    }


def _unpack_scores(
    graph: Graph, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> Scores:
    """The scores that `_pack_scores` packed.

    Args:
        header: says how they rank; by absolute value, if it does not say.
    """
    order = {"absolute": header.get("absolute", True), "greedy": header["greedy"]}
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
    """The tensors whose names have a prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
