"""Pretraining loss against circuit size: points, who beats whom, and the figure."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparse_lens.evals.frontier import frontier_points, undominated
from sparse_lens.evals.report import report_html
from sparse_lens.evals.report.cells import Cells
from sparse_lens.evals.report.frontier_section import frontier_marks
from sparse_lens.evals.results import Results
from sparse_lens.evals.summary import summarize
from sparse_lens.plotting import FrontierMark, frontier_figure
from tests.evals import toy_records

METHOD = "node-pruning"

SIZES = {  # model: nonzero fraction, pretraining loss, times as many edges as `edges_of` says
    "wide": (0.1, 3.0, 4),
    "narrow": (0.1, 3.5, 1),
    "worse": (0.1, 3.5, 2),
    "dense": (1.0, 2.9, 40),
    "copy": (1.0, 2.9, 40),
    "unknown": (1.0, None, 1),
}


def edges(model: str, task: str, seed: int) -> int:
    return SIZES[model][2] * toy_records.edges_of("sparse<1>", task, METHOD, seed)


def record_of(model: str, task: str, seed: int) -> Any:
    fraction, loss, times = SIZES[model]
    record = toy_records.record("sparse<1>", task, METHOD, seed)
    measurements = tuple(
        replace(m, n_edges=edges(model, task, seed)) if m.kind == "chosen" else m
        for m in record.measurements
    )
    return replace(
        record,
        job_id=f"{model}-{task}-{seed}",
        model=model,
        nonzero_fraction=fraction,
        pretraining_loss=loss,
        measurements=measurements,
        n_parameters=times,
    )


@pytest.fixture(scope="module")
def records() -> list[Any]:
    return [
        record_of(model, task, seed)
        for model in SIZES
        for task in toy_records.TASKS
        for seed in (0, 1)
    ]


def test_points_are_geometric_means_by_loss_and_unknown_losses_have_none(records):
    points = frontier_points(summarize(records))
    assert [point.model.model for point in points] == ["copy", "dense", "wide", "narrow", "worse"]
    for point in points:
        name = point.model.model
        logs = [
            [math.log(edges(name, task, seed)) for task in toy_records.TASKS] for seed in (0, 1)
        ]
        assert point.loss == SIZES[name][1]
        assert point.edges == pytest.approx(math.exp(sum(map(sum, logs)) / 4))
        assert point.by_seed == pytest.approx([math.exp(sum(own) / 2) for own in logs])
        assert point.n_unmet == 0


def test_the_undominated_are_those_that_none_beats_in_both(records):
    points = frontier_points(summarize(records))
    names = [point.model.model for point in undominated(points)]
    # `worse` has more edges than `narrow` at the same loss; the two dense ones are equal.
    assert names == ["copy", "dense", "wide", "narrow"]
    assert not any(point.beats(point) for point in points)


def test_points_of_two_methods_are_no_frontier(records):
    others = [replace(r, method="other", job_id=f"other-{r.job_id}") for r in records]
    points = frontier_points(summarize([*records, *others]))
    assert len(points) == 10
    with pytest.raises(ValueError, match=r"of one setting, got 2 \(node-pruning, other\)"):
        undominated(points)


def test_the_figure_has_every_model_and_a_line_through_the_best_of_a_kind(records):
    cells, summary = Cells.of(records), summarize(records)
    marks = frontier_marks(cells, frontier_points(summary))
    figure: Any = frontier_figure(marks)
    lines = {t.legendgroup: t for t in figure.data if t.meta["role"] == "frontier"}
    models = {t.legendgroup: t for t in figure.data if t.meta["role"] == "models"}
    assert list(models["sparse"].text) == ["wide", "narrow", "worse"]
    assert list(models["dense"].text) == ["copy", "dense"]
    assert list(lines["sparse"].x) == [3.0, 3.5]
    for trace in models.values():
        for name, y, up, down in zip(
            trace.text, trace.y, trace.error_y.array, trace.error_y.arrayminus, strict=True
        ):
            most, fewest = (
                math.exp(sum(math.log(edges(name, t, seed)) for t in toy_records.TASKS) / 2)
                for seed in (1, 0)
            )
            assert (y + up, y - down) == pytest.approx((most, fewest))


def test_names_of_neighbours_are_on_other_sides() -> None:
    places = {"far": (3.0, 9e2), "near": (3.4, 1e2), "nearer": (3.41, 98.0), "alone": (3.6, 50.0)}
    marks = [FrontierMark(name, 0, "sparse", loss, edges) for name, (loss, edges) in places.items()]
    figure: Any = frontier_figure(marks)
    (models,) = (trace for trace in figure.data if trace.meta["role"] == "models")
    assert dict(zip(models.text, models.textposition, strict=True)) == {
        "far": "top center",
        "near": "top center",
        "nearer": "bottom center",
        "alone": "top center",
    }


def test_a_report_has_a_frontier_where_three_models_have_a_loss(records):
    heading = "Capability and circuit size"
    assert heading in report_html(Results(tuple(records)))
    two = [record for record in records if record.model in ("wide", "dense", "unknown")]
    assert heading not in report_html(Results(tuple(two)))


def test_the_readme_s_table_is_that_of_the_results_beside_it():
    """`examples/frontier.py` wrote them; the report can be made from the file alone."""
    root = Path(__file__).resolve().parents[2]
    results = Results.load(root / "docs" / "frontier")
    summary = summarize(results)
    readme = (root / "README.md").read_text(encoding="utf-8")
    by_model: dict[str, dict[str, float]] = {}
    for point in frontier_points(summary):
        by_model.setdefault(point.model.model, {})[point.setting.method] = point.edges
    assert len(by_model) == 8
    for model in summary.models:
        nodes, attribution = (
            by_model[model.model][method] for method in (METHOD, "attribution-patching")
        )
        row = f"| {model.pretraining_loss:.3f} | {nodes:,.0f} | {attribution:,.0f} |"
        lines = [line for line in readme.splitlines() if line.startswith(f"| `{model.model}` |")]
        assert any(line.endswith(row) for line in lines)
    assert "Capability and circuit size" in report_html(results)
