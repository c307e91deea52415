"""Overlap with a known circuit, against loops over names."""

import pytest
import torch

from sparse_lens.circuit import Circuit
from sparse_lens.evals.reference import Overlap, auroc, overlap
from sparse_lens.graphs.base import Graph
from sparse_lens.scores import Scores
from tests.graphs.tiny import GRAPHS, random_edge_circuit, random_node_circuit

ALL = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def slow_auroc(scores: dict[str, float], inside: set[str]) -> float:
    """Every pair of a name inside and one outside."""
    wins = pairs = 0.0
    for name in inside:
        for other in scores.keys() - inside:
            wins += (scores[name] > scores[other]) + (scores[name] == scores[other]) / 2
            pairs += 1
    return wins / pairs


@ALL
def test_precision_and_recall(graph: Graph) -> None:
    for make, names in (
        (random_edge_circuit, lambda c: set(c.edge_names())),
        (random_node_circuit, lambda c: set(c.node_names())),
    ):
        found, reference = make(graph, 0.5, seed=1), make(graph, 0.3, seed=2)
        shared = len(names(found) & names(reference))
        assert overlap(found, reference) == Overlap(
            precision=shared / len(names(found)), recall=shared / len(names(reference))
        )


@ALL
def test_nothing_found_and_nothing_to_find(graph: Graph) -> None:
    some, nothing = random_edge_circuit(graph, 0.5, seed=1), Circuit.from_edge_names(graph, [])
    assert overlap(nothing, some) == Overlap(precision=1.0, recall=0.0)
    assert overlap(some, nothing) == Overlap(precision=0.0, recall=1.0)


@ALL
@pytest.mark.parametrize("absolute", [True, False])
def test_auroc_of_edges(graph: Graph, absolute: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    edges = {  # few values, so that many are equal
        block: torch.randint(-3, 4, support.shape, generator=generator).float()
        for block, support in graph.edge_support.items()
    }
    scores = Scores(graph, edges=edges, absolute=absolute)
    reference = random_edge_circuit(graph, 0.3, seed=3)
    by_name = scores.by_name()
    if absolute:
        by_name = {name: abs(value) for name, value in by_name.items()}
    expected = slow_auroc(by_name, set(reference.edge_names()))
    assert auroc(scores, reference) == pytest.approx(expected)


@ALL
def test_auroc_of_nodes(graph: Graph) -> None:
    reference = random_node_circuit(graph, 0.5, seed=4)
    perfect = {site: mask.float() for site, mask in reference.node_masks.items()}
    assert auroc(Scores(graph, nodes=perfect), reference) == 1.0
    assert auroc(Scores(graph, nodes={s: 1 - m for s, m in perfect.items()}), reference) == 0.0
    same = {site: torch.ones_like(mask) for site, mask in perfect.items()}
    assert auroc(Scores(graph, nodes=same), reference) == 0.5


def test_what_cannot_be_compared_is_refused() -> None:
    graph, other = list(GRAPHS.values())[:2]
    scores = Scores(graph, nodes={s: torch.ones(n) for s, (n,) in graph.site_shapes.items()})
    with pytest.raises(ValueError, match="scores are of"):
        auroc(scores, Circuit.full(other))
    with pytest.raises(ValueError, match="some that are in it and some that are not"):
        auroc(scores, Circuit.full(graph))
    with pytest.raises(ValueError, match="node"):
        overlap(random_edge_circuit(graph, 0.5, seed=1), random_node_circuit(graph, 0.5, seed=1))
