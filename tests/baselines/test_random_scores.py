"""A random ranking: uniform, the seed's alone, and no better than chance."""

import pytest
import torch

from sparse_lens.baselines import RandomScores
from sparse_lens.baselines.random_scores import random_scores
from sparse_lens.graphs import ComponentGraph
from sparse_lens.task import Task
from tests import planted
from tests.graphs import tiny
from tests.planted import Problem

COMPONENT = planted.problems()["dense, component, interchange"]
CHANNEL = planted.problems()["sparse, channel, mean"]
each_kind = pytest.mark.parametrize("problem", [COMPONENT, CHANNEL], ids=["component", "channel"])


@each_kind
def test_scores_are_the_seeds(problem: Problem) -> None:
    first, again = (random_scores(problem.graph, seed=5).by_name() for _ in range(2))
    other = random_scores(problem.graph, seed=6).by_name()
    assert first == again
    assert all(first[name] != other[name] for name in first)


@each_kind
def test_edges_of_component_graphs_and_nodes_of_channel_graphs(problem: Problem) -> None:
    scores = random_scores(problem.graph, seed=0)
    component = isinstance(problem.graph, ComponentGraph)
    assert (scores.edges is not None, scores.nodes is not None) == (component, not component)


def test_scores_are_uniform() -> None:
    graph = ComponentGraph.from_config(tiny.config(n_layers=6, n_heads=8, d_model=8))
    values = torch.tensor(list(random_scores(graph, seed=0).by_name().values()))
    assert len(values) == graph.n_edges > 2000
    tenths = torch.histc(values, bins=10, min=0, max=1) / len(values)
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    assert bool(((tenths - 0.1).abs() < 0.03).all())  # 4 standard errors


@each_kind
def test_chance_needs_more_than_the_planted_circuit(problem: Problem) -> None:
    found = RandomScores().discover(
        problem.model, problem.graph, planted.task(), ablation=problem.ablation, seed=0
    )
    kept = set(
        found.circuit.node_names()
        if problem.circuit.is_node_circuit
        else found.circuit.edge_names()
    )
    assert len(kept) > 2 * len(problem.names)
    assert found.cost.backward_passes == 0


def test_without_validation_prompts_nothing_runs() -> None:
    task = Task("differ", train=planted.task().train)
    found = RandomScores().discover(
        COMPONENT.model, COMPONENT.graph, task, ablation=COMPONENT.ablation
    )
    assert found.chosen is None
    assert found.cost.forward_passes == 0
    assert found.at(n_edges=9).n_edges == 9
