"""Soft masks."""

import pytest
import torch

from sparse_lens.masks import Masks
from tests.graphs.tiny import GRAPHS, random_edge_circuit, random_node_circuit

every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


@every_graph
def test_masks_of_a_circuit_are_its_masks(graph):
    circuit = random_edge_circuit(graph, 0.4, seed=1)
    masks = Masks.of(circuit)
    for site, mask in circuit.node_masks.items():
        assert torch.equal(masks.nodes[site], mask.float())
    for block in graph.edge_support:
        assert torch.equal(masks.edges[block], circuit.edge_mask(block).float())


@every_graph
def test_a_node_circuit_gives_no_edge_masks(graph):
    masks = Masks.of(random_node_circuit(graph, 0.4, seed=1))
    assert dict(masks.edges) == {}
    assert list(masks.nodes) == list(graph.sites)


def test_tensors_are_used_as_they_are():
    graph = GRAPHS["channel"]
    gate = torch.rand(graph.site_shapes["blocks.0.q"], requires_grad=True)
    masks = Masks(graph, {"blocks.0.q": gate}, {})
    assert masks.nodes["blocks.0.q"] is gate
    with pytest.raises(TypeError):
        masks.nodes["blocks.0.q"] = gate  # type: ignore[index]


def test_what_is_no_circuit_is_refused():
    with pytest.raises(ValueError, match=r"expected a Circuit, got str; a discovery has"):
        Masks.of("circuit")  # type: ignore[arg-type]


def test_refusals():
    graph = GRAPHS["channel"]
    with pytest.raises(ValueError, match=r"no site 'blocks.0.qq'.*'blocks.0.q'"):
        Masks(graph, {"blocks.0.qq": torch.ones(6)}, {})
    with pytest.raises(ValueError, match=r"shape \(6,\), got \(5,\)"):
        Masks(graph, {"blocks.0.q": torch.ones(5)}, {})
    block = "blocks.0.mlp_in->blocks.0.mlp_post"
    with pytest.raises(ValueError, match=r"shape \(6, 4\), got \(4, 6\)"):
        Masks(graph, {}, {block: torch.ones(4, 6)})
