"""What circuits of different tasks share, and what they would by chance."""

from itertools import combinations
from statistics import fmean
from typing import Any

import pytest
import torch

from sparse_lens.circuit import Circuit
from sparse_lens.evals.compare import compare
from sparse_lens.evals.report import report_html
from sparse_lens.evals.results import Results
from sparse_lens.evals.task_overlap import chance_iou, task_overlaps
from sparse_lens.graphs import ChannelGraph
from sparse_lens.plotting.overlaps import overlaps_spec
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex, EdgesByIndex
from tests.graphs.tiny import random_edge_circuit, random_node_circuit

TASKS = ("one", "other", "third")
HEADING = "Do tasks share their circuits?"


def run(folder: Any, *, target_loss: float) -> tuple[Any, Results]:
    model = toy.model()
    results = compare(
        [model],
        [toy.task(name) for name in TASKS],
        {"nodes": ByIndex(), "edges": EdgesByIndex()},
        out=folder,
        seeds=2,
        target=Target(target_loss),
        budgets=BUDGETS,
        random_draws=1,
    )
    return model, results


def test_it_is_the_mean_over_seeds_for_every_pair_of_tasks(tmp_path: Any) -> None:
    model, results = run(tmp_path, target_loss=5.0)
    graph = ChannelGraph.from_model(model)
    # The methods here look at no task, so their circuits are all alike: others take their places.
    for number, record in enumerate(results):
        make = random_node_circuit if record.circuit_given_by == "nodes" else random_edge_circuit
        make(graph, 0.2 + number / 40, seed=number).save(results.circuit_path(record))
    found = task_overlaps(results)
    assert {(one.setting.method, one.tasks) for one in found} == {
        (method, pair) for method in ("nodes", "edges") for pair in combinations(TASKS, 2)
    }
    for one in found:
        by_task = {
            task: {
                record.seed: Circuit.load(results.circuit_path(record), graph)
                for record in results
                if (record.method, record.task) == (one.setting.method, task)
            }
            for task in one.tasks
        }
        a, b = by_task.values()
        assert one.iou == pytest.approx(fmean(a[seed].iou(b[seed]) for seed in (0, 1)))
        assert 0 < one.iou < 1
        assert one.n_seeds == 2
        whole = graph.n_nodes if one.setting.method == "nodes" else graph.n_edges
        sizes = [
            [c.n_nodes if c.is_node_circuit else c.n_edges for c in (a[seed], b[seed])]
            for seed in (0, 1)
        ]
        assert one.by_chance == pytest.approx(fmean(chance_iou(n, m, whole) for n, m in sizes))
    page = report_html(results)
    assert HEADING in page
    assert 'data-pattern="overlap-0-*"' in page


def test_chance_is_what_random_sets_share() -> None:
    n, one, other = 60, 20, 30
    generator = torch.Generator().manual_seed(0)
    shared = 0
    for _ in range(4000):
        first = set(torch.randperm(n, generator=generator)[:one].tolist())
        shared += len(first & set(torch.randperm(n, generator=generator)[:other].tolist()))
    mean = shared / 4000
    assert chance_iou(one, other, n) == pytest.approx(mean / (one + other - mean), rel=0.01)
    assert chance_iou(n, n, n) == 1
    assert chance_iou(0, 5, n) == 0
    assert chance_iou(0, 0, 0) == 1


def test_circuits_that_miss_the_target_and_results_without_files_say_nothing(tmp_path: Any) -> None:
    _, results = run(tmp_path, target_loss=1e-6)
    assert task_overlaps(results) == ()
    assert HEADING not in report_html(results)
    assert task_overlaps(Results(results.records)) == ()


def test_the_heat_map_is_one_triangle_whichever_task_comes_first() -> None:
    shares = {("a", "b"): (0.5, 0.1), ("c", "a"): (0.25, 0.2)}
    (heat,) = overlaps_spec(("a", "b", "c"), shares)["data"]
    assert (heat["x"], heat["y"]) == (["a", "b"], ["b", "c"])
    assert heat["z"] == [[0.5, None], [0.25, None]]
    assert heat["text"] == [["0.50", ""], ["0.25", ""]]
    assert heat["customdata"] == [[0.1, None], [0.2, None]]
