"""Agreement over seeds: of the circuits in a comparison's folder, and what a reader is told."""

from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any

import pytest

from sparse_lens.circuit import Circuit
from sparse_lens.evals.compare import compare
from sparse_lens.evals.report import report_html
from sparse_lens.evals.results import Results
from sparse_lens.evals.seed_stability import Stability, sentences, stability
from sparse_lens.evals.summary import Setting
from sparse_lens.graphs import ChannelGraph
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex, EdgesByIndex

EASY = 5.0
"""A target that circuits meet."""


def run(folder: Any, *, seeds: int, target_loss: float = EASY) -> tuple[Any, Results]:
    model = toy.model()
    results = compare(
        [model],
        [toy.task("one"), toy.task("other")],
        {"nodes": ByIndex(), "edges": EdgesByIndex()},
        out=folder,
        seeds=seeds,
        target=Target(target_loss),
        budgets=BUDGETS,
        random_draws=1,
    )
    return model, results


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Results]:
    return run(tmp_path_factory.mktemp("three"), seeds=3)


def test_it_is_the_mean_over_pairs_of_seeds(three_seeds: tuple[Any, Results]) -> None:
    model, results = three_seeds
    graph = ChannelGraph.from_model(model)
    found = stability(results)
    assert {(one.setting.method, one.task) for one in found} == {
        (method, task) for method in ("nodes", "edges") for task in ("one", "other")
    }
    for one in found:
        circuits = [
            Circuit.load(results.circuit_path(record), graph)
            for record in results
            if (record.method, record.task) == (one.setting.method, one.task)
        ]
        ious = [a.iou(b) for a, b in combinations(circuits, 2)]
        assert len(ious) == 3
        assert sorted(one.ious) == pytest.approx(sorted(ious))
        assert one.mean_iou == pytest.approx(fmean(ious))
        assert one.seeds == (0, 1, 2)


def test_a_reader_is_told(three_seeds: tuple[Any, Results]) -> None:
    _, results = three_seeds
    found = stability(results)
    mean = fmean(one.mean_iou for one in found if one.setting.method == "nodes")
    told = next(sentence for sentence in sentences(found) if sentence.startswith("nodes:"))
    assert f"over 3 seeds {mean:.2f} on " in told
    page = report_html(results)
    assert "The same circuit again?" in page
    assert f"<b>{mean:.2f}</b>" in page


def test_the_seeds_are_those_that_found_a_circuit() -> None:
    nodes = Setting("nodes", "channel", "MeanAblation", "", "task loss 0.15")
    edges = replace(nodes, method="edges")
    found = (
        Stability(nodes, "m", "one", (0, 1, 2), (0.5, 0.5, 0.5)),
        Stability(nodes, "m", "two", (0, 2), (0.1,)),
        Stability(edges, "m", "one", (0, 1), (1.0,)),
    )
    assert sentences(found) == (
        "nodes: mean pairwise IoU of circuits over 2 to 3 seeds 0.30 on m.",
        "edges: mean pairwise IoU of circuits over 2 seeds 1.00 on m.",
    )


def test_one_seed_says_nothing_of_it(tmp_path: Any) -> None:
    _, results = run(tmp_path, seeds=1)
    assert stability(results) == ()
    assert "The same circuit again?" not in report_html(results)


def test_full_graphs_of_unmet_targets_are_no_agreement(tmp_path: Any) -> None:
    _, results = run(tmp_path, seeds=2, target_loss=1e-6)
    assert not any(record.met_on_validation for record in results)
    assert stability(results) == ()
