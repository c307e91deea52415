"""Where gates start: in the order of scores, or of another method."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, ZeroAblation
from sparse_lens.baselines.acdc import ACDC
from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.method import Method
from sparse_lens.objectives import TaskLoss
from sparse_lens.scores import Scores
from sparse_lens.task import Task
from tests.baselines.edge_pruning.problems import SHORT, TASK, at_start, random, tiny_problem
from tests.graphs.tiny import GRAPHS


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_gates_start_in_the_order_of_edge_scores_by_absolute_value(kind: str) -> None:
    model, graph = tiny_problem(kind)
    scores = Scores(
        graph,
        edges={
            block: random(support.numel(), 3).view(support.shape) - 0.5
            for block, support in graph.edge_support.items()
        },
    )
    started = at_start(graph, model, initial=scores, initial_mean=4.0, initial_spread=3.0)
    sizes = {name: abs(score) for name, score in scores.by_name().items()}
    ranks = {size: rank for rank, size in enumerate(sorted(set(sizes.values())))}
    for name, size in sizes.items():
        expected = 1 + 3 * ranks[size] / (len(ranks) - 1)
        assert started[name] == pytest.approx(expected, abs=1e-5)


def test_an_edge_takes_the_lower_of_its_ends_node_scores() -> None:
    model, graph = tiny_problem("channel")
    nodes = Scores(graph, nodes=graph.unflatten(random(graph.n_nodes)))
    started = at_start(graph, model, initial=nodes)
    by_node = nodes.by_name()
    lower = {name: min(by_node[end] for end in name.split("->")) for name in started}
    order = sorted(lower, key=lower.__getitem__)
    levels = [started[name] for name in order]
    assert levels == sorted(levels)
    assert (min(levels), max(levels)) == pytest.approx((2, 10))
    tied = {lower[name]: started[name] for name in order}
    assert all(started[name] == tied[lower[name]] for name in order)


def test_gates_start_in_the_order_that_a_method_finds() -> None:
    model, graph = tiny_problem("component")
    method = AttributionPatching(objective=TaskLoss())
    found = method.discover(model, graph, TASK, ablation=InterchangeAblation())
    by_method = at_start(graph, model, initial=method)
    assert by_method == at_start(graph, model, initial=found.scores)
    assert len(set(by_method.values())) > graph.n_edges // 2


def test_the_passes_of_the_initial_method_are_counted() -> None:
    model, graph = tiny_problem("component")
    first = AttributionPatching().discover(model, graph, TASK, ablation=ZeroAblation()).cost

    def cost(**settings: Any) -> Any:
        method = EdgePruning(**(SHORT | settings))
        return method.discover(model, graph, TASK, ablation=ZeroAblation()).cost

    alone, both = cost(), cost(initial=AttributionPatching())
    assert both.forward_passes == alone.forward_passes + first.forward_passes
    assert both.backward_passes == alone.backward_passes + first.backward_passes


def test_initial_scores_of_another_graph_are_refused() -> None:
    model, graph = tiny_problem("component")
    other = GRAPHS["component"]
    scores = Scores(other, edges={"edges": torch.rand(other.block_shapes["edges"])})
    with pytest.raises(ValueError, match="initial scores are of another graph"):
        EdgePruning(initial=scores).discover(model, graph, TASK, ablation=ZeroAblation())


def test_a_ranking_is_taken_without_its_search_for_a_circuit() -> None:
    model, graph = tiny_problem("component")
    with_validation = replace(TASK, validation=TASK.train)

    def passes(task: Task, method: Method) -> int:
        """Those of the method itself: one for each size was its search for a circuit."""
        discovery = method.discover(model, graph, task, ablation=ZeroAblation())
        n_tried = len(discovery.chosen.tried) if discovery.chosen else 0
        return discovery.cost.forward_passes - n_tried

    for task in (TASK, with_validation):
        alone = passes(task, EdgePruning(**SHORT))
        both = passes(task, EdgePruning(**SHORT, initial=AttributionPatching()))
        assert both - alone == passes(TASK, AttributionPatching())


def test_the_passes_of_a_method_that_counts_its_own_are_counted() -> None:
    """ACDC runs parts of the model, which nobody sees from outside."""
    model, graph = tiny_problem("component")
    acdc = ACDC(objective=TaskLoss(), thresholds=0.01)

    def passes(method: Method) -> int:
        return method.discover(model, graph, TASK, ablation=ZeroAblation()).cost.forward_passes

    alone = passes(EdgePruning(**SHORT))
    assert passes(EdgePruning(**SHORT, initial=acdc)) - alone == passes(acdc)
