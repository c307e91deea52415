"""What a discovery answers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_lens.baselines import RandomScores
from sparse_lens.circuit import Circuit
from sparse_lens.cost import Cost
from sparse_lens.discovery import Discovery
from sparse_lens.scores import Scores
from sparse_lens.search import ChosenCircuit
from tests.graphs import tiny

GRAPH = tiny.COMPONENT
NAMES = list(GRAPH.edge_names())
SCORES = Scores(
    GRAPH,
    edges={"edges": torch.linspace(-2, 1, GRAPH.n_readers * GRAPH.n_writers).reshape(
        GRAPH.n_readers, GRAPH.n_writers
    )},
)  # fmt: skip


def discovery(**changes: Any) -> Discovery:
    values: dict[str, Any] = {
        "method": RandomScores(),
        "task": "t",
        "scores": SCORES,
        "chosen": None,
        "cost": Cost(),
        "seed": 0,
    }
    return Discovery(**(values | changes))


def first_edges(n: int) -> Circuit:
    return Circuit.from_edge_names(GRAPH, NAMES[:n])


def test_a_ranking_gives_a_circuit_of_any_size() -> None:
    found, by_name = discovery(), SCORES.by_name()
    for n in (0, 1, 5, len(NAMES)):
        best = sorted(NAMES, key=lambda name: -abs(by_name[name]))[:n]
        assert found.at(n_edges=n) == Circuit.from_edge_names(GRAPH, best)
    signed = sorted(NAMES, key=lambda name: -by_name[name])[:5]
    by_value = discovery(scores=replace(SCORES, absolute=False))
    assert by_value.at(n_edges=5) == Circuit.from_edge_names(GRAPH, signed)


@pytest.mark.parametrize(
    ("n_edges", "nearest"),
    [(0, 3), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5), (8, 9), (9, 9), (10, 9), (1000, 9)],
)
def test_a_method_with_circuits_gives_the_nearest_and_of_two_the_smaller(
    n_edges: int, nearest: int
) -> None:
    for order in ((3, 5, 9), (9, 5, 3), (5, 9, 3)):
        found = discovery(circuits=tuple(map(first_edges, order)))
        assert found.at(n_edges=n_edges) == first_edges(nearest)


def test_the_nearest_by_nodes() -> None:
    names = list(GRAPH.node_names())
    small, large = (Circuit.from_node_names(GRAPH, names[:n]) for n in (2, 6))
    found = discovery(circuits=(large, small))
    for n_nodes, expected in ((0, small), (4, small), (5, large), (99, large)):
        assert found.at(n_nodes=n_nodes) == expected


def test_circuits_come_before_the_ranking() -> None:
    assert discovery(circuits=(first_edges(4),)).at(n_edges=1).n_edges == 4


@pytest.mark.parametrize("circuits", [(), (first_edges(3),)])
def test_one_size_is_asked_for(circuits: tuple[Circuit, ...]) -> None:
    found = discovery(circuits=circuits)
    for sizes in ({}, {"n_edges": 1, "n_nodes": 1}):
        with pytest.raises(ValueError, match="either n_edges or n_nodes"):
            found.at(**sizes)


def test_scores_of_edges_give_no_number_of_nodes() -> None:
    with pytest.raises(ValueError, match=r"top\(n_edges=\.\.\.\)"):
        discovery().at(n_nodes=3)


def test_the_chosen_circuit() -> None:
    chosen = ChosenCircuit(first_edges(3), 0.1, True, ((3, 0.1),))
    assert discovery(chosen=chosen).circuit is chosen.circuit


def test_no_circuit_is_chosen_without_validation_prompts() -> None:
    with pytest.raises(ValueError, match=r"'t' has no validation split.*discovery\.at\(n_edges="):
        _ = discovery().circuit


def test_a_discovery_prints_its_circuit_and_no_numbers_of_its_ranking() -> None:
    chosen = ChosenCircuit(first_edges(3), 0.1, True, ((3, 0.1),))
    shown = repr(discovery(chosen=chosen))
    assert str(SCORES) in shown
    assert f"chosen=ChosenCircuit(circuit={chosen.circuit}, loss=0.1, met_target=True" in shown
    assert "tensor" not in shown
