"""Jobs that have nothing to find: run beside the others, counted apart from them."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import sparse_lens as sl
from sparse_lens.commands.compare_presets import PRESETS
from sparse_lens.evals.compare import Comparison
from sparse_lens.evals.control_outcomes import NOT_RUN, control_sentence
from sparse_lens.evals.evidence import counted_records, evidence
from sparse_lens.evals.harness.jobs import Job
from sparse_lens.evals.harness.nothing_to_find import NO_CONTROLS, NothingToFind
from sparse_lens.evals.records import Record
from sparse_lens.evals.report import report_html
from sparse_lens.evals.results import Results
from sparse_lens.evals.seed_stability import stability
from sparse_lens.evals.summary import summarize
from sparse_lens.evals.task_overlap import task_overlaps
from sparse_lens.identity import model_hash
from sparse_lens.models.checkpoint import save_sparse_gpt
from tests.evals import toy_comparison as toy
from tests.evals import toy_records
from tests.evals.test_report import rows, text_of
from tests.evals.toy_comparison import BUDGETS, ByIndex, EdgesByIndex, Half

METHODS = {"nodes": ByIndex(), "edges": EdgesByIndex()}


def jobs_of(**controls: Any) -> tuple[Job, ...]:
    models = [toy.model(), toy.model(activation_type="relu")]
    tasks = [toy.task("a"), toy.task("b"), toy.task("c")]
    settings: dict[str, Any] = {"controls": NothingToFind(**controls)} if controls else {}
    return Comparison(models, tasks, METHODS, seeds=2, **settings).jobs()


def test_jobs_beside_the_others():
    """By every method and with the first seed; the others are what they are without them."""
    others = jobs_of()
    jobs = jobs_of(tasks=[toy.task("no rule")], random_models=1, random_tasks=2)
    assert [job.id for job in jobs if job.control is None] == [job.id for job in others]
    found = Counter(
        (job.control, job.model.label.startswith("random:"), job.task.name, job.label, job.seed)
        for job in jobs
        if job.control is not None
    )
    expected = {
        **{("task", False, "no rule", method, 0): 2 for method in METHODS},
        **{("model", True, task, method, 0): 1 for task in "ab" for method in METHODS},
    }
    assert found == expected
    first = jobs[0].model
    (twin,) = {job.model.hash for job in jobs if job.control == "model"}
    assert twin == model_hash(sl.random_weights(first.load()))
    assert len({job.id for job in jobs}) == len(jobs)
    labels = [job.model.label for job in jobs]
    in_a_row = 1 + sum(a != b for a, b in pairwise(labels))
    assert in_a_row == 3, "a model is loaded once for each row of its jobs"


def test_none_unless_asked_for_but_in_both_presets():
    assert all(job.control is None for job in jobs_of())
    assert Comparison([toy.model()], [toy.task()], METHODS).controls == NO_CONTROLS
    for preset in PRESETS.values():
        assert preset.controls.tasks == ("nonsense",)
        assert min(preset.controls.random_models, preset.controls.random_tasks) > 0


def test_names_of_controls_are_known(tmp_path: Path):
    save_sparse_gpt(toy.model(tied_unembed=False), tmp_path / "mine")
    names = [str(tmp_path / "mine"), f"random:{tmp_path / 'mine'}"]
    comparison = Comparison(names, [toy.task(), "nonsense"], [ByIndex()], controls=NothingToFind())
    jobs = comparison.jobs()
    assert [(job.model.label, job.task.name, job.control) for job in jobs] == [
        ("mine", "toy", None),
        ("mine", "nonsense", "task"),
        ("random:mine", "toy", "model"),
        ("random:mine", "nonsense", "model"),
    ], "what is there already is not added"
    assert jobs[0].model.graph_edges == jobs[2].model.graph_edges
    assert jobs[2].model.hash == model_hash(sl.random_weights(jobs[0].model.load()))
    assert jobs[2].blank().control == "model"


def test_the_loss_of_a_trained_model_is_not_its_twins(tmp_path: Path):
    save_sparse_gpt(toy.model(tied_unembed=False), tmp_path / "mine")
    (tmp_path / "mine" / "training.json").write_text('{"final": {"stdlib_loss": 3.0}}')
    comparison = Comparison(
        [tmp_path / "mine"], [toy.task()], [ByIndex()], controls=NothingToFind(tasks=())
    )
    assert [job.model.pretraining_loss for job in comparison.jobs()] == [3.0, None]


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        (lambda: NothingToFind(random_tasks=-1), "random_tasks must be 0 or more, got -1"),
        (lambda: NothingToFind(tasks="nonsense"), "tasks must be a list"),
        (lambda: True, r"controls is NothingToFind\(...\), got True"),
        (lambda: NothingToFind(tasks=[toy.task()]), "tasks must differ, got \\['toy'\\]"),
        (lambda: NothingToFind(tasks=["nonsens"]), "no task 'nonsens'"),
    ],
)
def test_wrong_controls(controls: Any, message: str):
    with pytest.raises(ValueError, match=message):
        Comparison([toy.model()], [toy.task()], [ByIndex()], controls=controls())


def control(kind: str, method: str, **changes: Any) -> Record:
    """Of a task without a rule in `sparse<1>`, or of `for_while` in its twin; unmet by default."""
    made = toy_records.record("sparse<1>", "for_while", method, 0)
    names = {"task": "nonsense"} if kind == "task" else {"model": "random:sparse<1>"}
    unmet: dict[str, Any] = {"met_on_validation": False, "met_on_held_out": False}
    return replace(made, control=kind, job_id=f"{kind}{method}", **(names | unmet | changes))


CONTROLS = (
    control("task", "node-pruning"),
    control("task", "random", met_on_validation=True),
    control("task", "attribution-patching"),
    control("model", "node-pruning", met_on_validation=True),
    control("model", "attribution-patching", met_on_validation=True, met_on_held_out=True),
)


def test_controls_change_no_other_number():
    """Also where they are met, with the full model able to do their task."""
    records = toy_records.records()
    beside = (*records, *CONTROLS)
    assert summarize(beside) == summarize(records)
    assert counted_records(beside, summarize(beside)) == counted_records(
        records, summarize(records)
    )
    failed = replace(CONTROLS[0], status="failed", error="no", measurements=())
    assert summarize((*records, failed)).n_failed == summarize(records).n_failed + 1


def test_a_sentence_of_their_own():
    """40 and 43 edges by hand; the random control among the methods is left out."""
    assert control_sentence(CONTROLS) == (
        "Controls, where there is nothing to find: on the task without a rule (nonsense) 0 of 2 "
        "searches met the target; in models of random weights 2 of 2 searches met the target, 1 of "
        f"them on held-out prompts, too (geometric mean {(40 * 43) ** 0.5:.3g} edges)."
    )
    assert "1 search met" in control_sentence(CONTROLS[3:4])
    assert "random weights" not in control_sentence(CONTROLS[:3])
    assert control_sentence(toy_records.records()) == control_sentence([]) == NOT_RUN


def test_the_report_shows_them_apart():
    records = (*toy_records.records(), *CONTROLS)
    page, without = report_html(Results(records)), report_html(Results(toy_records.records()))
    text = text_of(page)
    assert control_sentence(records) in text
    assert NOT_RUN in text_of(without)
    assert NOT_RUN not in text
    apart = text[text.index("Controls, where there is nothing to find Method") :]
    assert "node-pruning sparse<1> on nonsense 700 5,000 0 of 1" in apart
    assert "node-pruning random:sparse<1> 21 43 1 of 1 0 of 1" in apart
    for part in ("for 2 tasks, 2 models, 3 methods and 3 seeds", "sparse<1> needs"):
        assert (part in text) == (part in text_of(without)) is True
    assert "no result" not in text, "a twin has no card"
    marks = {tuple(row[:3]): row[3] for row in rows(page)}
    assert marks["nonsense", "sparse<1>", "node-pruning"] == "control: 0 of 1 met"
    assert marks["for_while", "random:sparse<1>", "node-pruning"] == "control: 1 of 1 met"
    only = text_of(report_html(Results(CONTROLS)))
    assert "0 circuits met the target" in only
    assert control_sentence(CONTROLS) in only


def test_they_are_no_seeds_and_no_tasks_to_compare(tmp_path: Path):
    """Of a comparison that was run, with circuits that all are met."""
    results = sl.compare(
        [toy.model()], [toy.task()], {"half": Half()}, out=tmp_path, budgets=BUDGETS, seeds=2,
        controls=NothingToFind(tasks=[toy.task("no rule")]), questions=(), random_draws=1,
    )  # fmt: skip
    assert [record.status for record in results] == ["done"] * 4
    assert [record.control for record in Results.load(tmp_path)] == [None, None, "task", "model"]
    assert all(record.met_on_validation for record in results)
    assert [(each.task, each.seeds) for each in stability(results)] == [("toy", (0, 1))]
    assert task_overlaps(results) == ()
    assert evidence(counted_records(results, summarize(results))).circuits == ()


def test_records_of_before_load():
    old = toy_records.record("sparse<1>", "for_while", "random", 0).to_json()
    del old["control"]
    assert Record.from_json(old).control is None
    assert Record.from_json(CONTROLS[0].to_json()).control == "task"
