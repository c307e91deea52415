"""Circuits in files."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sparse_lens.circuit import Circuit
from sparse_lens.circuit_io import SavedParts
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from tests.graphs.tiny import GRAPHS, config, random_edge_circuit, random_node_circuit, sparse_model

every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


@every_graph
@pytest.mark.parametrize("make", [random_edge_circuit, random_node_circuit])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_what_is_saved_is_loaded(graph, make, share, tmp_path):
    circuit = make(graph, share, seed=3)
    circuit.save(tmp_path / "circuit.safetensors")
    loaded = Circuit.load(tmp_path / "circuit.safetensors", graph)
    assert loaded == circuit
    assert loaded.is_node_circuit == circuit.is_node_circuit
    assert [file.name for file in tmp_path.iterdir()] == ["circuit.safetensors"]


def test_the_file_says_what_it_holds(tmp_path):
    graph = GRAPHS["component"]
    Circuit.from_edge_names(graph, ["input->m0", "m0->logits"]).save(str(tmp_path / "c"))
    with safe_open(tmp_path / "c", framework="pt") as file:
        metadata = json.loads(file.metadata()["circuit"])
    assert metadata["fingerprint"] == graph.fingerprint
    assert (metadata["n_nodes"], metadata["n_edges"]) == (3, 2)
    assert "component graph of 2 layers" in metadata["graph"]


def test_files_are_small(tmp_path):
    graph = ComponentGraph.from_config(config(32, 32, 64))
    edges = {"edges": graph.edge_support["edges"].clone()}
    Circuit.from_edge_masks(graph, edges).save(tmp_path / "full")
    assert (tmp_path / "full").stat().st_size < graph.n_edges / 8 + 2000
    edges["edges"][:, 1:] = False
    Circuit.from_edge_masks(graph, edges).save(tmp_path / "few")
    assert (tmp_path / "few").stat().st_size < 4 * graph.n_readers + 2000


def test_a_circuit_of_another_model_is_refused(tmp_path):
    path = tmp_path / "circuit"
    Circuit.full(ChannelGraph.from_model(sparse_model())).save(path)
    other = sparse_model()
    with torch.no_grad():
        other.blocks[0].mlp.W_out.zero_()
    for graph in (
        ChannelGraph.from_model(other),
        ChannelGraph.from_model(sparse_model(), final_resid=False),
        ComponentGraph.from_model(sparse_model()),
    ):
        with pytest.raises(ValueError, match=r"another graph: a channel graph .* fingerprint"):
            Circuit.load(path, graph)
    assert Circuit.load(path, ChannelGraph.from_model(sparse_model())).n_nodes > 0


def test_a_file_that_is_there_is_replaced(tmp_path):
    graph, path = GRAPHS["component"], tmp_path / "circuit"
    Circuit.full(graph).save(path)
    Circuit.empty(graph).save(path)
    assert Circuit.load(path, graph) == Circuit.empty(graph)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    graph, path = GRAPHS["component"], tmp_path / "circuit"
    Circuit.full(graph).save(path)

    def fail(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        Circuit.empty(graph).save(path)
    assert Circuit.load(path, graph) == Circuit.full(graph)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_a_circuit(tmp_path):
    graph = GRAPHS["component"]
    with pytest.raises(FileNotFoundError, match="no circuit at"):
        Circuit.load(tmp_path / "nothing", graph)
    with pytest.raises(FileNotFoundError, match="no circuit at"):
        Circuit.load(tmp_path, graph)
    (tmp_path / "text").write_text("hello, this is not a circuit")
    with pytest.raises(ValueError, match="not a saved circuit"):
        Circuit.load(tmp_path / "text", graph)
    save_file({"nodes": torch.zeros(1)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match=r"not a saved circuit.*got None"):
        Circuit.load(tmp_path / "tensors", graph)
    with pytest.raises(FileNotFoundError):
        Circuit.full(graph).save(tmp_path / "no" / "folder")


@every_graph
@pytest.mark.parametrize("make", [random_edge_circuit, random_node_circuit])
def test_agreement_of_saved_circuits_without_their_graph(graph, make, tmp_path):
    circuits = [make(graph, share, seed=seed) for seed, share in enumerate((0.0, 0.01, 0.4, 0.5))]
    for number, circuit in enumerate(circuits):
        circuit.save(tmp_path / str(number))
    saved = [SavedParts.read(tmp_path / str(number)) for number in range(len(circuits))]
    for one, its_parts in zip(circuits, saved, strict=True):
        assert len(its_parts) == (one.n_nodes if one.is_node_circuit else one.n_edges)
        for other, others_parts in zip(circuits, saved, strict=True):
            assert its_parts.iou(others_parts) == one.iou(other)


def test_saved_circuits_that_cannot_be_compared(tmp_path):
    graph = GRAPHS["component"]
    random_node_circuit(graph, 0.5, seed=0).save(tmp_path / "nodes")
    random_edge_circuit(graph, 0.5, seed=0).save(tmp_path / "edges")
    random_node_circuit(GRAPHS["channel"], 0.5, seed=0).save(tmp_path / "other")
    nodes, edges, other = (SavedParts.read(tmp_path / n) for n in ("nodes", "edges", "other"))
    with pytest.raises(ValueError, match="given_by are nodes and edges"):
        nodes.iou(edges)
    with pytest.raises(ValueError, match="their fingerprint are"):
        nodes.iou(other)
    with pytest.raises(FileNotFoundError, match="no circuit at"):
        SavedParts.read(tmp_path / "missing")
