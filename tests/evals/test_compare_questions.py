"""The harness: answers to questions about a circuit, and comparisons that ask none."""

import json
from dataclasses import replace
from typing import Any

import pytest

from sparse_lens.circuit import Circuit
from sparse_lens.evals.compare import compare, plan
from sparse_lens.evals.metrics import measure
from sparse_lens.evals.questions import Questions, minimality, partly_ablated, resampled
from sparse_lens.evals.records import Measurement, Record
from sparse_lens.evals.results import Results
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex, Half
from tests.graphs.tiny import dense_model


def of_questions(results: Results, label: str) -> tuple[Record, dict[str, list[Measurement]]]:
    (record,) = (record for record in results if record.method == label)
    kinds = ("resample", "frozen_norms", "subset")
    return record, {kind: list(record.of_kind(kind)) for kind in kinds}


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
def test_answers_to_questions_are_recorded(tmp_path, graph_of):
    model, task = toy.model(), toy.task()
    asked = Questions(
        resample_draws=2, subset_draws=3, subset_share=0.4, minimality_nodes=4,
        dispensable_below=0.02,
    )  # fmt: skip
    methods = {"nodes": Half(), "edges": Half(edges=True)}
    run: dict[str, Any] = {
        "graph": graph_of, "budgets": BUDGETS, "questions": asked, "seeds": [3],
    }  # fmt: skip
    results = compare([model], [task], methods, out=tmp_path / "one", **run)
    graph = graph_of(model)
    bound, held_out = toy.bound(graph, model), task.split("held_out")
    for label in methods:
        record, found = of_questions(results, label)
        assert record.status == "done", record.error
        assert record.questions["subset_share"] == 0.4
        circuit = Circuit.load(results.circuit_path(record), graph)
        draws = resampled(bound, circuit, held_out, draws=2, seed=3)
        subsets = partly_ablated(bound, circuit, held_out, share=0.4, draws=3, seed=3)
        frozen = measure(bound, circuit, held_out, freeze_norm_scales=True)
        expected = {
            "resample": draws.metrics,
            "frozen_norms": (frozen,),
            "subset": subsets.metrics,
        }
        for kind, metrics in expected.items():
            assert len(found[kind]) == len(metrics)
            for measurement, one in zip(found[kind], metrics, strict=True):
                for name, value in one.means().items():
                    assert getattr(measurement, name) == pytest.approx(value, abs=1e-6)
                assert measurement.necessity_kl is None
        assert [m.draw for m in found["subset"]] == [0, 1, 2]
        assert [m.n_edges for m in found["subset"]] == [c.n_edges for c in subsets.circuits]
        alone = minimality(bound, circuit, held_out, dispensable_below=0.02, max_nodes=4, seed=3)
        assert record.chosen.removed_nodes == len(alone.nodes) > 0
        assert record.chosen.dispensable_share == len(alone.dispensable) / len(alone.nodes)
    again = compare([model], [task], methods, out=tmp_path / "two", **run)
    assert [toy.without_what_differs(r) for r in again] == [
        toy.without_what_differs(r) for r in results
    ]


def test_an_unmet_target_is_asked_nothing_and_some_models_have_no_norms(tmp_path):
    run: dict[str, Any] = {"budgets": BUDGETS, "questions": Questions(minimality_nodes=2)}
    methods = {"nodes": ByIndex()}
    unmet = compare(
        [toy.model()], [toy.task()], methods, out=tmp_path / "unmet", target_loss=1e-9, **run
    )
    record, found = of_questions(unmet, "nodes")
    assert not any(found.values())
    assert record.chosen.removed_nodes is None
    no_norms = dense_model(normalization_type=None)
    no_norms.reference_tokens = toy.model().reference_tokens  # type: ignore[assignment]
    bare = compare([no_norms], [toy.task()], {"nodes": Half()}, out=tmp_path / "bare", **run)
    record, found = of_questions(bare, "nodes")
    assert record.status == "done", record.error
    assert [len(answers) for answers in found.values()] == [2, 0, 8]


def test_records_from_before_there_were_questions_still_count(tmp_path):
    """They are read, and a comparison that asks nothing does not run their jobs again."""
    arguments = ([toy.model()], [toy.task()], {"nodes": ByIndex()})
    nothing: dict[str, Any] = {"budgets": BUDGETS, "questions": Questions.none()}
    (record,) = compare(*arguments, out=tmp_path, **nothing)
    row = record.to_json()
    del row["questions"]
    for measurement in row["measurements"]:
        del measurement["removed_nodes"], measurement["dispensable_share"]
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (old,) = Results.load(tmp_path)
    assert old == replace(record, questions={})
    (job,) = plan(*arguments, **nothing)
    assert job.id == old.job_id
    seen = []
    compare(*arguments, out=tmp_path, progress=seen.append, **nothing)
    assert [progress.resumed for progress in seen] == [True]
