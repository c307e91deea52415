"""What a vector of gates means."""

import math

import pytest
import torch
from torch import Tensor

from sparse_lens.baselines.edge_pruning.gates import EdgeGates
from sparse_lens.graphs import Graph
from sparse_lens.hard_concrete import HardConcrete
from tests.baselines.edge_pruning.problems import random
from tests.graphs.tiny import GRAPHS

each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


def source_of(graph: Graph, block: str, column: int) -> int:
    return int(graph.blocks[block].src_nodes[column])


def slow_edge_gates(gates: EdgeGates, values: Tensor) -> dict[tuple[str, int, int], float]:
    """By block, row and column: the edge's gate times its writer's, one edge at a time."""
    graph = gates.graph
    masks = gates.masks(values)
    nodes = torch.ones(graph.n_nodes)
    for site, mask in masks.nodes.items():
        nodes[graph.node_slices[site]] = mask
    return {
        (block, dst, src): float(masks.edges[block][dst, src] * nodes[source_of(graph, block, src)])
        for block, support in graph.edge_support.items()
        for dst, src in support.nonzero().tolist()
    }


@each_graph
@pytest.mark.parametrize("writers", [False, True])
def test_every_gate_stands_for_one_edge_or_one_writer(graph: Graph, writers: bool) -> None:
    gates = EdgeGates(graph, writers=writers)
    values = random(gates.n_gates)
    masks = gates.masks(values)
    assert len(masks.edges) == len(graph.edge_support)
    inside = [masks.edges[block][support] for block, support in graph.edge_support.items()]
    found = torch.cat([*inside, *masks.nodes.values()])
    assert torch.equal(found, values)
    sources = {
        source_of(graph, block, src)
        for block, support in graph.edge_support.items()
        for src in range(support.shape[1])
    }
    gated = [n for site in masks.nodes for n in range(graph.n_nodes)[graph.node_slices[site]]]
    assert gated == (sorted(sources) if writers else [])


@each_graph
@pytest.mark.parametrize("writers", [False, True])
def test_edges_are_counted_and_ranked_with_the_gates_of_their_writers(
    graph: Graph, writers: bool
) -> None:
    gates, offset = EdgeGates(graph, writers=writers), HardConcrete().offset
    values = random(gates.n_gates)
    slow = slow_edge_gates(gates, values)
    torch.testing.assert_close(float(gates.kept(values)), sum(slow.values()), rtol=1e-5, atol=0)
    log_alpha = 6 * random(gates.n_gates, 1) - 3
    both_open = slow_edge_gates(gates, (log_alpha.double() + offset).sigmoid())
    scores = gates.scores(log_alpha, offset).edges
    assert scores is not None
    for (block, dst, src), p in both_open.items():
        expected = math.log(p / (1 - p)) - offset
        assert float(scores[block][dst, src]) == pytest.approx(expected, abs=1e-5)


def test_without_gates_of_writers_the_scores_are_log_alpha_itself() -> None:
    graph = GRAPHS["channel"]
    log_alpha = 200 * random(graph.n_edges) - 100
    scores = EdgeGates(graph).scores(log_alpha, 1.6)
    assert list(scores.by_name().values()) == log_alpha.tolist()


def test_ranks_with_gates_of_writers_keep_apart_what_is_far_out() -> None:
    graph = GRAPHS["component"]
    gates = EdgeGates(graph, writers=True)
    log_alpha = torch.cat(
        [torch.linspace(-90, 30, gates.n_edges), torch.full((gates.n_gates - gates.n_edges,), 40.0)]
    )
    edges = gates.scores(log_alpha, 1.6).edges
    assert edges is not None
    assert bool((graph.flatten_edges(edges).diff() > 0).all())
