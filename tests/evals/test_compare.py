"""The harness: records against direct computation, failures, identity of jobs."""

import copy
import json
import pickle
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import sparse_lens as sl
from sparse_lens.circuit import Circuit
from sparse_lens.evals.compare import compare, plan
from sparse_lens.evals.controls import complement
from sparse_lens.evals.jobs import run_job
from sparse_lens.evals.metrics import measure
from sparse_lens.evals.questions import Questions, minimality, partly_ablated, resampled
from sparse_lens.evals.records import Measurement, Record
from sparse_lens.evals.results import Results
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.identity import model_hash, task_hash, tokenizer_hash
from sparse_lens.method import registry
from sparse_lens.models.checkpoint import save_sparse_gpt
from sparse_lens.search import choose_circuit
from tests.evals import toy_comparison as toy
from tests.evals import toy_records
from tests.evals.toy_comparison import BUDGETS, ByIndex, EdgesByIndex, Failing, Half
from tests.graphs.tiny import dense_model

METHODS = {"nodes": ByIndex(), "edges": EdgesByIndex()}
EASY = 0.9
"""A target that some random circuit meets."""
METRICS = ("kl", "task_loss", "logit_difference", "accuracy", "exact_match")


def direct_means(logits, full, prompts):
    """Task loss and accuracy of logits at all positions."""
    rows = torch.arange(len(prompts))
    at = logits[rows, prompts.answer_positions]
    two = torch.stack([at[rows, prompts.answers], at[rows, prompts.distractors]], -1)
    loss = F.cross_entropy(two, torch.zeros(len(rows), dtype=torch.long))
    log_p = full[rows, prompts.answer_positions].log_softmax(-1)
    kl = F.kl_div(at.log_softmax(-1), log_p, log_target=True, reduction="batchmean")
    return float(loss), float((two[:, 0] > two[:, 1]).float().mean()), float(kl)


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
def test_records_against_direct_computation(tmp_path, graph_of):
    model, task = toy.model(), toy.task()
    results = sl.compare(
        [model], [task], METHODS, out=tmp_path, graph=graph_of, budgets=BUDGETS,
        target_loss=EASY, random_draws=2, questions=Questions.none(),
    )  # fmt: skip
    graph = graph_of(model)
    ablation, held_out = sl.MeanAblation(), task.split("held_out")
    with torch.no_grad():
        full = model(held_out.clean)
        empty = sl.run_circuit(model, Circuit.empty(graph), held_out, ablation=ablation)
    assert len(results) == 2
    for record in results:
        assert record.status == "done", record.error
        kinds = Counter(m.kind for m in record.measurements)
        n_budgets = len(BUDGETS.of(graph))
        assert kinds == {"chosen": 1, "full": 1, "empty": 1, "random": 2, "budget": n_budgets}
        (none,) = record.of_kind("empty")
        for measurement, logits in ((record.full, full), (none, empty)):
            loss, accuracy, kl = direct_means(logits, full, held_out)
            assert measurement.task_loss == pytest.approx(loss, abs=1e-6)
            assert measurement.accuracy == accuracy
            assert measurement.kl == pytest.approx(kl, abs=1e-6)
        assert (record.full.kl, record.full.exact_match) == (0.0, 1.0)
        assert record.full.necessity_task_loss == none.task_loss
        assert none.necessity_task_loss == record.full.task_loss
        assert (none.n_nodes, none.n_edges) == (0, 0)
        assert (record.graph_nodes, record.graph_edges) == (graph.n_nodes, graph.n_edges)
        assert (record.graph, record.graph_fingerprint) == (graph.kind, graph.fingerprint)
        assert [m.requested_edges for m in record.curve] == list(BUDGETS.of(graph))
        for m in record.curve:
            assert m.requested_edges is not None
            assert m.connected_edges <= m.n_edges <= m.requested_edges


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


def test_a_saved_circuit_run_again_gives_the_numbers(tmp_path):
    model, task = toy.model(), toy.task()
    compare([model], [task], METHODS, out=tmp_path, budgets=BUDGETS, target_loss=EASY)
    results = Results.load(tmp_path)
    graph = ChannelGraph.from_model(model)
    bound = toy.bound(graph, model)
    for record in results:
        circuit = Circuit.load(results.circuit_path(record), graph)
        again = measure(bound, circuit, task.split("held_out")).means()
        ablated = measure(bound, complement(circuit), task.split("held_out")).means()
        for name in METRICS:
            assert getattr(record.chosen, name) == again[name]
            assert getattr(record.chosen, f"necessity_{name}") == ablated[name]
        assert record.chosen.n_edges == circuit.n_edges
        assert record.chosen.connected_edges == circuit.connected().n_edges
        assert record.circuit_given_by == ("nodes" if record.method == "nodes" else "edges")
        assert record.met_on_held_out == (again["task_loss"] <= EASY)


def test_every_method_is_given_the_same_target_and_search(tmp_path):
    model, task = toy.model(), toy.task()
    by_label = {
        record.method: record
        for record in compare(
            [model], [task], METHODS, out=tmp_path, budgets=BUDGETS, target_loss=EASY
        )
    }
    assert by_label["nodes"].hyperparameters["target_loss"] == EASY
    graph = ChannelGraph.from_model(model)
    bound = toy.bound(graph, model)
    for label, method in METHODS.items():
        scores = method.discover(model, graph, task, ablation=bound).scores
        expected = choose_circuit(bound, scores, task, target_loss=EASY)
        record = by_label[label]
        assert record.met_on_validation == expected.met_target
        assert record.validation_loss == expected.loss
        assert record.search == expected.tried
        assert record.chosen.n_edges == expected.circuit.n_edges
    assert by_label["nodes"].chosen.requested_nodes == by_label["nodes"].chosen.n_nodes
    assert by_label["edges"].chosen.requested_edges == by_label["edges"].chosen.n_edges


def test_a_failure_is_recorded_and_the_others_go_on(tmp_path):
    seen = []
    results = compare(
        [toy.model()], [toy.task()], {"bad": Failing(), "good": ByIndex()}, out=tmp_path,
        seeds=2, budgets=BUDGETS, progress=seen.append,
    )  # fmt: skip
    assert [record.status for record in results] == ["failed", "failed", "done", "done"]
    assert "ZeroDivisionError: no circuit today" in str(results.failed[0].error)
    assert "discover" in str(results.failed[0].error)
    assert results.failed[0].measurements == ()
    assert [p.record is None for p in seen] == [True, False] * 4
    assert [(p.number, p.total, p.seed) for p in seen[::2]] == [
        (1, 4, 0), (2, 4, 1), (3, 4, 0), (4, 4, 1),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no saved circuit"):
        results.circuit_path(results.failed[0])


def test_jobs_travel_and_repeat():
    attribution: Any = registry()["attribution-patching"]
    methods = {"nodes": ByIndex(), "scores": attribution()}
    jobs = plan([toy.model()], [toy.task()], methods, seeds=[3], budgets=BUDGETS, target_loss=5.0)
    for job in jobs:
        there = pickle.loads(pickle.dumps(job))
        assert there.id == job.id
        here, away = run_job(job), run_job(there)
        assert here.record.status == "done", here.record.error
        assert here.circuit == away.circuit
        assert here.drawing == away.drawing is not None
        assert toy.without_what_differs(here.record) == toy.without_what_differs(away.record)


def test_the_id_depends_on_everything():
    model, other = toy.model(), toy.model()
    with torch.no_grad():
        other.blocks[0].mlp.b_out[0] += 1e-6  # type: ignore[operator, index]
    reference = toy.model()
    reference.reference_tokens = reference.reference_tokens.flip(0)  # type: ignore[union-attr]
    task = toy.task()
    longer = replace(task, held_out=toy.prompts(5, 2))
    common: dict[str, Any] = {"graph": ChannelGraph.from_model, "budgets": BUDGETS}

    def id_of(model=model, task=task, method=METHODS["nodes"], label="nodes", **changes):
        settings: dict[str, Any] = {**common, "seeds": [0], **changes}
        (job,) = plan([model], [task], {label: method}, **settings)
        return job.id

    ids = [
        id_of(),
        id_of(model=other),
        id_of(model=reference),
        id_of(model=toy.model(activation_type="relu")),
        id_of(task=longer),
        id_of(method=ByIndex(step=8)),
        id_of(label="mine"),
        id_of(graph=ComponentGraph.from_model),
        id_of(ablation=sl.ZeroAblation()),
        id_of(ablation=sl.MeanAblation(per_position=True)),
        id_of(ablation=sl.MeanAblation(tokens=torch.zeros(1, 4, dtype=torch.long))),
        id_of(seeds=[1]),
        id_of(target_loss=0.2),
        id_of(budgets=replace(BUDGETS, counts=(3,))),
        id_of(random_draws=1),
        id_of(questions=Questions.none()),
        id_of(questions=Questions(subset_share=0.4)),
    ]
    assert len(set(ids)) == len(ids)
    assert id_of(model=copy.deepcopy(model)) == ids[0]
    model.set_use_split_qkv_input(True)
    assert id_of() == ids[0], "flags of hook points do not change what a model computes"


def test_tasks_by_name_need_a_tokenizer_that_carries_them(tmp_path, tokenizer, bytes_tokenizer):
    model = toy.model(vocab_size=1024, block_size=128)
    results = compare([model], ["for_while"], METHODS, out=tmp_path / "none", budgets=BUDGETS)
    assert "no tokenizer" in str(results.failed[0].error)
    model.set_tokenizer(copy.deepcopy(bytes_tokenizer))
    results = compare([model], ["for_while"], METHODS, out=tmp_path / "bytes", budgets=BUDGETS)
    assert "ValueError" in str(results.failed[0].error)
    model.set_tokenizer(copy.deepcopy(tokenizer))
    sizes = sl.evals.sources.SplitSizes(n_train=8, n_validation=6, n_held_out=4)
    (record,) = compare(
        [model], ["for_while"], {"nodes": ByIndex()}, out=tmp_path / "ours", budgets=BUDGETS,
        splits=sizes, task_seed=5,
    )  # fmt: skip
    assert record.status == "done", record.error
    assert (record.n_train, record.n_validation, record.n_held_out) == (8, 6, 4)
    assert record.task_seed == 5


@pytest.mark.parametrize(
    ("log", "loss"),
    [
        ({"final": {"stdlib_loss": 3.125, "grammar_loss": 2.5}}, 3.125),
        ({"final": {"grammar_loss": 2.5}}, None),
        ({"epochs": 3}, None),
        ([1, 2], None),
        (None, None),
    ],
)
def test_the_pretraining_loss_is_that_of_the_folder(tmp_path, log, loss):
    save_sparse_gpt(toy.model(tied_unembed=False), tmp_path / "model")
    if log is not None:
        (tmp_path / "model" / "training.json").write_text(json.dumps(log))
    (job,) = plan([tmp_path / "model"], [toy.task()], [ByIndex()])
    record = job.blank()
    assert record.pretraining_loss == loss
    assert Results((record,)).to_pandas().pretraining_loss.tolist() == [loss]


def test_labels(tmp_path):
    pruning: Any = registry()["node-pruning"]
    jobs = plan([toy.model()], [toy.task()], [pruning(), pruning(n_steps=5), ByIndex()])
    assert [job.label for job in jobs] == ["node-pruning", "node-pruning n_steps=5", "ByIndex"]
    assert jobs[0].model.label.endswith(jobs[0].model.hash[:8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "nothing to compare"),
        ({"seeds": 0}, "nothing to compare"),
        ({"models": "py-sparse"}, "must be a list"),
        ({"models": ["nobody"]}, "no model 'nobody'"),
        ({"tasks": ["nothing"]}, "no task 'nothing'"),
        ({"tasks": [toy.task(), toy.task()]}, "'toy'.* more than once"),
        ({"tasks": [sl.Task("bare", train=toy.prompts(2, 0))]}, "no validation split"),
        ({"methods": [ByIndex(), ByIndex()]}, "more than once"),
        ({"seeds": [1, 2, 1]}, "seeds must differ, got \\['1'\\] more than once"),
        ({"models": [toy.model(activation_type="relu", residual_activation_type="relu")],
          "graph": ComponentGraph.from_model}, "relu"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_runs(arguments, message):
    given: dict[str, Any] = {
        "models": [toy.model()],
        "tasks": [toy.task()],
        "methods": [ByIndex()],
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        plan(given.pop("models"), given.pop("tasks"), given.pop("methods"), **given)


def test_records_and_tables(tmp_path):
    methods = {**METHODS, "bad": Failing()}
    results = compare([toy.model()], [toy.task()], methods, out=tmp_path, budgets=BUDGETS)
    loaded = Results.load(tmp_path)
    assert loaded.records == tuple(Record.from_json(r.to_json()) for r in results)
    table = loaded.to_pandas()
    assert len(table) == 1 + sum(len(r.measurements) for r in results)
    one = table[(table.method == "nodes") & (table.kind == "chosen")].iloc[0]
    assert one.task_loss == results.records[0].chosen.task_loss
    assert one["hyperparameters.step"] == 7
    assert one["hyperparameters.objective.type"] == "TaskLoss"
    assert one["ablation.type"] == "MeanAblation"
    assert one["versions.torch"] == torch.__version__
    assert json.loads(one["budgets.fractions"]) == [0.3, 1.0]
    assert json.loads(one["search"]) == [list(tried) for tried in results.records[0].search]
    (bad,) = table.method.eq("bad").to_numpy().nonzero()
    assert table.loc[bad, "kind"].isna().all()
    assert table.loc[bad, "hyperparameters.step"].isna().all()


def test_a_table_has_every_field_of_the_records(tmp_path):
    results = compare([toy.model()], [toy.task()], METHODS, out=tmp_path, budgets=BUDGETS)
    table = results.to_pandas()
    parts = list(dict.fromkeys(column.partition(".")[0] for column in table.columns))
    job = [f.name for f in fields(Record) if f.name != "measurements"]
    assert parts == [*job, *(f.name for f in fields(Measurement))]
    results.to_csv(tmp_path / "table.csv")
    again = pd.read_csv(tmp_path / "table.csv")
    assert list(again.columns) == list(table.columns)
    for column in ("model", "kind", "task_loss", "n_edges", "hyperparameters.step", "search"):
        pd.testing.assert_series_equal(again[column], table[column], check_dtype=False)
    with pytest.raises(FileNotFoundError, match="no folder"):
        results.to_csv(tmp_path / "nowhere" / "table.csv")


def test_a_row_says_what_it_depends_on(tmp_path, tokenizer):
    model = toy.model(vocab_size=1024, block_size=128)
    model.set_tokenizer(copy.deepcopy(tokenizer))
    (record,) = compare(
        [model], [toy.task()], {"nodes": ByIndex()}, out=tmp_path, budgets=BUDGETS, random_draws=2,
        ablation=sl.ZeroAblation(), seeds=[4], target_loss=0.3,
    )  # fmt: skip
    row = json.loads((tmp_path / "results.jsonl").read_text())
    assert row["model_hash"] == model_hash(model)
    assert row["tokenizer_hash"] == tokenizer_hash(tokenizer)
    assert row["task_hash"] == task_hash(toy.task())
    assert (row["n_train"], row["n_validation"], row["n_held_out"]) == (6, 6, 8)
    assert row["method_class"] == "tests.evals.toy_comparison.ByIndex"
    expected = {"objective": {"type": "TaskLoss"}, "step": 7, "target_loss": 0.3}
    assert row["hyperparameters"] == expected
    assert row["ablation"] == {"type": "ZeroAblation"}
    assert (row["seed"], row["target_loss"], row["random_draws"]) == (4, 0.3, 2)
    assert row["budgets"] == {"type": "EdgeBudgets", "fractions": [0.3, 1.0], "counts": [2]}
    assert set(row["versions"]) == {"sparse-lens", "torch", "transformer-lens", "python"}
    assert (row["device"], row["dtype"]) == ("cpu", "float32")
    assert row["threads"] == torch.get_num_threads()
    assert row["hardware"]
    assert row["seconds"] > 0
    assert row["forward_passes"] > 0
    assert row["job_seconds"] > row["seconds"]
    assert Record.from_json(row) == record


def test_records_of_an_older_version_can_be_read():
    record = toy_records.record("dense&co", "for_while", "random", 0)
    row = record.to_json()
    for name in ("order", "budgets", "random_draws", "tokenizer_hash", "dtype", "hardware"):
        del row[name]
    assert Record.from_json(row) == record


def test_what_is_no_record_or_no_results(tmp_path):
    results = compare([toy.model()], [toy.task()], METHODS, out=tmp_path, budgets=BUDGETS)
    with pytest.raises(ValueError, match="unknown fields \\['colour'\\]"):
        Record.from_json({**results.records[0].to_json(), "colour": 1})
    with pytest.raises(FileNotFoundError, match="no results"):
        Results.load(tmp_path / "elsewhere")
