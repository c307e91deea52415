"""EAP-IG's JSON, against a published file on GPT-2 small."""

import json

import pytest
import torch

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ComponentGraph
from sparse_lens.scores import Scores
from tests.graphs.tiny import GRAPHS, config, random_edge_circuit


def test_the_published_circuit_round_trips(fixtures, tmp_path):
    path = fixtures / "circuits" / "ioi_gpt2_small_eap_ig.json"
    graph = ComponentGraph.from_config(config(12, 12, 768))
    circuit, scores = Circuit.from_eap_ig_json(graph, path), Scores.from_eap_ig_json(graph, path)
    assert (circuit.n_edges, circuit.n_nodes) == (756, 81)
    original = json.loads(path.read_text())
    written = circuit.to_eap_ig_json(tmp_path / "again.json", scores=scores)
    assert written == original
    assert list(written["edges"]) == list(original["edges"])
    assert (tmp_path / "again.json").read_text() == path.read_text()
    assert scores.by_name() == {name: e["score"] for name, e in original["edges"].items()}


def test_the_published_circuit_is_connected(fixtures):
    path = fixtures / "circuits" / "ioi_gpt2_small_eap_ig.json"
    circuit = Circuit.from_eap_ig_json(ComponentGraph.from_config(config(12, 12, 768)), path)
    assert circuit.connected() == circuit


@pytest.mark.parametrize("name", ["component", "component, parallel", "component, attention only"])
def test_round_trip_in_memory(name):
    graph = GRAPHS[name]
    circuit = random_edge_circuit(graph, 0.3, seed=1)
    document = circuit.to_eap_ig_json()
    assert Circuit.from_eap_ig_json(graph, document) == circuit
    assert {edge["score"] for edge in document["edges"].values()} == {0.0}


def test_an_edge_needs_both_of_its_nodes():
    """As when EAP-IG runs a graph."""
    graph = GRAPHS["component"]
    document = Circuit.full(graph).to_eap_ig_json()
    document["nodes"]["m0"]["in_graph"] = False
    names = Circuit.from_eap_ig_json(graph, document).edge_names()
    assert names == [name for name in graph.edge_names() if "m0" not in name]


def test_refusals():
    graph = GRAPHS["component"]
    circuit = Circuit.full(graph)
    document = circuit.to_eap_ig_json()
    for name in ("channel", "component, split"):
        with pytest.raises(ValueError, match="component graphs with one input"):
            Circuit.full(GRAPHS[name]).to_eap_ig_json()
        with pytest.raises(ValueError, match="component graphs with one input"):
            Circuit.from_eap_ig_json(GRAPHS[name], document)
    with pytest.raises(ValueError, match="n_layers is 2, the graph's is 3"):
        Circuit.from_eap_ig_json(ComponentGraph.from_config(config(3)), document)
    with pytest.raises(ValueError, match="lacks cfg, nodes"):
        Circuit.from_eap_ig_json(graph, {"edges": {}})
    with pytest.raises(ValueError, match="no node 'm9'"):
        Circuit.from_eap_ig_json(
            graph, document | {"nodes": document["nodes"] | {"m9": {"in_graph": True}}}
        )
    with pytest.raises(ValueError, match=r"no edge 'a9.h0->logits'"):
        Circuit.from_eap_ig_json(
            graph, document | {"edges": document["edges"] | {"a9.h0->logits": {"in_graph": True}}}
        )
    edges = {name: {"in_graph": True} for name in document["edges"]}
    with pytest.raises(ValueError, match="have no score"):
        Scores.from_eap_ig_json(graph, document | {"edges": edges})
    nodes = Scores(graph, nodes={n: torch.zeros(s.width) for n, s in graph.sites.items()})
    with pytest.raises(ValueError, match="edge scores of the circuit's own graph"):
        circuit.to_eap_ig_json(scores=nodes)


def test_a_file_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text('{"cfg": ')
    with pytest.raises(ValueError, match=r"graph\.json is not JSON: .* line 1"):
        Circuit.from_eap_ig_json(GRAPHS["component"], path)
