"""Circuits of a comparison made ready to be drawn, and kept so beside their files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.evals.identity import model_hash
from sparse_lens.evals.records import Record
from sparse_lens.evals.results import Results
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.models import zoo
from sparse_lens.models.checkpoint import load_sparse_gpt
from sparse_lens.plotting.network import Network

Model = str | Path | HookedTransformer


def drawing_path(circuit: str | os.PathLike[str]) -> Path:
    """Where the drawing of a saved circuit is kept: beside it."""
    return Path(circuit).with_suffix(".drawing.json")


def save_drawing(network: Network, circuit: str | os.PathLike[str]) -> Path:
    """Keep a drawing beside its circuit, which can then be shown without the model."""
    path = drawing_path(circuit)
    path.write_text(network.to_json() + "\n", encoding="utf-8")
    return path


class Drawings:
    """Drawings of a comparison's circuits: from their files, or made from the models and kept."""

    def __init__(self, results: Results, models: Iterable[Model] = ()) -> None:
        """
        Args:
            models: names, folders or models, for circuits whose drawings are not kept yet. Models
                that are embedded or in the cache are found by their names.
        """
        self._results = results
        self._given = tuple(models)
        self._loaded: dict[str, HookedTransformer | None] = {}

    def of(self, record: Record) -> Network | None:
        """The drawing of a record's circuit; None where neither it nor the model is at hand."""
        if self._results.folder is None or record.circuit is None:
            return None
        path = self._results.circuit_path(record)
        if drawing_path(path).is_file():
            return Network.from_json(drawing_path(path).read_text(encoding="utf-8"))
        model = self._model(record)
        if model is None or not path.is_file():
            return None
        graph = graph_of(model, record.graph, record.graph_fingerprint)
        network = Network.of(Circuit.load(path, graph), model)
        if os.access(path.parent, os.W_OK):
            save_drawing(network, path)
        return network

    def _model(self, record: Record) -> HookedTransformer | None:
        if record.model_hash not in self._loaded:
            self._loaded[record.model_hash] = None  # do not look for it again
            for origin in (*self._given, *_at_hand(record.model)):
                known = isinstance(origin, HookedTransformer)
                model = origin if known else load_sparse_gpt(origin)
                self._loaded[model_hash(model)] = model
        return self._loaded[record.model_hash]


def graph_of(model: HookedTransformer, kind: str, fingerprint: str) -> Graph:
    """The graph of a model that has a fingerprint, whichever options it was built with.

    Raises:
        ValueError: when none has.
    """
    for option in (False, True):
        graph: Graph
        if kind == ComponentGraph.kind:
            graph = ComponentGraph.from_model(model, split_embeddings=option)
        else:
            graph = ChannelGraph.from_model(model, final_resid=not option)
        if graph.fingerprint == fingerprint:
            return graph
    raise ValueError(
        f"no {kind} graph of this model has the fingerprint {fingerprint}: the circuit is one of "
        "another model, or the model was changed."
    )


def _at_hand(name: str) -> tuple[str, ...]:
    """The name of a model, if it is one that need not be fetched."""
    entries = {entry.name: entry.status for entry in zoo.list_models()}
    return (name,) if entries.get(name) in ("embedded", "cached") else ()
