"""Scores against sorting a list of names."""

from dataclasses import replace

import pytest
import torch

from sparse_lens.circuit import Circuit
from sparse_lens.scores import Scores
from tests.graphs.tiny import GRAPHS

every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


def random_scores(graph, kind, *, decimals=8, seed=0):
    """Few decimals make many ties."""
    generator = torch.Generator().manual_seed(seed)
    shapes = graph.site_shapes if kind == "nodes" else graph.block_shapes
    values = {
        n: torch.randn(s, generator=generator).round(decimals=decimals) for n, s in shapes.items()
    }
    return Scores(graph, nodes=values) if kind == "nodes" else Scores(graph, edges=values)


def best_names(scores, k, absolute):
    """Python's sort is stable, so earlier names win."""
    ranked = sorted(
        scores.by_name().items(), key=lambda item: -(abs(item[1]) if absolute else item[1])
    )
    return {name for name, _ in ranked[:k]}


def test_scores_print_what_they_are_of_and_no_numbers():
    graph = GRAPHS["component"]
    edges = {"edges": torch.zeros(graph.block_shapes["edges"])}
    assert repr(Scores(graph, edges=edges)) == f"Scores(of the edges of {graph})"
    greedy = Scores(graph, edges=edges, greedy=True, absolute=False)
    assert repr(greedy) == f"Scores(of the edges of {graph}, greedy, signed)"
    nodes = {name: torch.zeros(shape) for name, shape in graph.site_shapes.items()}
    assert repr(Scores(graph, nodes=nodes)) == f"Scores(of the nodes of {graph})"


@every_graph
@pytest.mark.parametrize("kind", ["nodes", "edges"])
def test_by_name_is_in_the_graphs_order(graph, kind):
    scores = random_scores(graph, kind)
    by_name = scores.by_name()
    assert list(by_name) == list(graph.node_names() if kind == "nodes" else graph.edge_names())
    for name, value in by_name.items():
        if scores.nodes is not None:
            site, index = graph.parse_node(name)
            assert value == float(scores.nodes[site][index])
        if scores.edges is not None:
            block, dst, src = graph.parse_edge(name)
            assert value == float(scores.edges[block][dst, src])


@every_graph
@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("absolute", [True, False])
def test_top_edges_are_exact_and_stable(graph, decimals, absolute):
    scores = replace(random_scores(graph, "edges", decimals=decimals), absolute=absolute)
    for k in (0, 1, 2, 7, graph.n_edges // 2, graph.n_edges - 1, graph.n_edges):
        circuit = scores.top(n_edges=k)
        assert set(circuit.edge_names()) == best_names(scores, k, absolute)
        assert circuit.n_edges == k


@every_graph
@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("absolute", [True, False])
def test_top_nodes_are_exact_and_stable(graph, decimals, absolute):
    scores = replace(random_scores(graph, "nodes", decimals=decimals), absolute=absolute)
    for k in (0, 1, 5, graph.n_nodes - 1, graph.n_nodes):
        circuit = scores.top(n_nodes=k)
        assert set(circuit.node_names()) == best_names(scores, k, absolute)
        assert circuit.n_nodes == k
        assert circuit.is_node_circuit


@every_graph
def test_top_edges_of_node_scores_is_the_largest_prefix_that_fits(graph):
    scores = random_scores(graph, "nodes", decimals=1)
    prefixes = [scores.top(n_nodes=k) for k in range(graph.n_nodes + 1)]
    for n_edges in (0, 1, 3, graph.n_edges // 2, graph.n_edges - 1, graph.n_edges, 10**9):
        expected = [circuit for circuit in prefixes if circuit.n_edges <= n_edges][-1]
        assert scores.top(n_edges=n_edges) == expected


@every_graph
def test_more_than_there_are_is_everything(graph):
    everything = Circuit.full(graph)
    assert random_scores(graph, "nodes").top(n_nodes=10**9) == everything
    circuit = random_scores(graph, "edges").top(n_edges=10**9)
    assert circuit.edge_names() == everything.edge_names()


def test_a_node_with_an_infinite_score_is_always_chosen():
    graph = GRAPHS["component"]
    values = {name: torch.randn(shape) for name, shape in graph.site_shapes.items()}
    values["logits"] = torch.tensor([torch.inf])
    assert Scores(graph, nodes=values).top(n_nodes=1).node_names() == ["logits"]


def test_half_precision_and_gradients_are_fine():
    graph = GRAPHS["component"]
    values = torch.randn(graph.block_shapes["edges"], dtype=torch.bfloat16, requires_grad=True)
    scores = Scores(graph, edges={"edges": values})
    assert scores.top(n_edges=5).n_edges == 5
    assert scores.edges is not None
    assert not scores.edges["edges"].requires_grad


def test_later_changes_of_the_tensors_do_not_matter():
    graph = GRAPHS["component"]
    values = torch.ones(graph.block_shapes["edges"])
    scores = Scores(graph, edges={"edges": values})
    values.zero_()
    assert set(scores.by_name().values()) == {1.0}
    with pytest.raises(TypeError):
        scores.edges["edges"] = values  # type: ignore[index]


def test_refusals():
    graph = GRAPHS["component"]
    edges = {"edges": torch.zeros(graph.block_shapes["edges"])}
    nodes = {name: torch.zeros(shape) for name, shape in graph.site_shapes.items()}
    for both_or_none in ((None, None), (nodes, edges)):
        with pytest.raises(ValueError, match="one of the two"):
            Scores(graph, *both_or_none)
    with pytest.raises(ValueError, match="1 of 6 sites are missing: embed"):
        Scores(graph, nodes={name: nodes[name] for name in nodes if name != "embed"})
    with pytest.raises(ValueError, match="needs a tensor of shape"):
        Scores(graph, edges={"edges": edges["edges"].T})
    with pytest.raises(ValueError, match="1 of 8 scores are not numbers"):
        Scores(graph, nodes=nodes | {"embed": torch.tensor([torch.nan])})
    Scores(
        graph, edges={"edges": edges["edges"].masked_fill(~graph.edge_support["edges"], torch.nan)}
    )
    scores = Scores(graph, edges=edges)
    with pytest.raises(ValueError, match="one of the two"):
        scores.top()
    with pytest.raises(ValueError, match="one of the two"):
        scores.top(n_nodes=1, n_edges=1)
    with pytest.raises(ValueError, match=r"scores are of edges"):
        scores.top(n_nodes=1)
    with pytest.raises(ValueError, match="cannot choose -1"):
        scores.top(n_edges=-1)
