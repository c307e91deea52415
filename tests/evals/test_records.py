"""Rows of a comparison: what they say, as tables, and read again."""

import copy
import json
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import torch

import sparse_lens as sl
from sparse_lens.evals.compare import compare
from sparse_lens.evals.records import Measurement, Record
from sparse_lens.evals.results import NOT_IN_TABLES, Results
from sparse_lens.identity import describe, model_hash, task_hash, tokenizer_hash
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex, EdgesByIndex, Failing

METHODS = {"nodes": ByIndex(), "edges": EdgesByIndex()}
EASY = 5.0
"""A target that the empty circuit meets."""


def test_records_and_tables(tmp_path):
    methods = {**METHODS, "bad": Failing()}
    results = compare(
        [toy.model()], [toy.task()], methods, out=tmp_path, budgets=BUDGETS, target=Target(EASY)
    )
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
    answers = results.records[0].answers
    assert one["answers.minimality.removed_nodes"] == answers["minimality"]["removed_nodes"]
    assert json.loads(one["answers.subsets.task_loss"]) == answers["subsets"]["task_loss"]
    (bad,) = table.method.eq("bad").to_numpy().nonzero()
    assert table.loc[bad, "kind"].isna().all()
    assert table.loc[bad, "hyperparameters.step"].isna().all()


def test_a_table_has_every_field_of_the_records(tmp_path):
    results = compare(
        [toy.model()], [toy.task()], METHODS, out=tmp_path, budgets=BUDGETS, target=Target(EASY)
    )
    table = results.to_pandas()
    parts = list(dict.fromkeys(column.partition(".")[0] for column in table.columns))
    job = [f.name for f in fields(Record) if f.name not in NOT_IN_TABLES]
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
        ablation=sl.ZeroAblation(), seeds=[4], target=Target(0.3),
    )  # fmt: skip
    row = json.loads((tmp_path / "results.jsonl").read_text())
    assert row["model_hash"] == model_hash(model)
    assert row["tokenizer_hash"] == tokenizer_hash(tokenizer)
    assert row["task_hash"] == task_hash(toy.task())
    assert (row["n_train"], row["n_validation"], row["n_held_out"]) == (6, 6, 8)
    assert row["method_class"] == "tests.evals.toy_comparison.ByIndex"
    expected = {"objective": {"type": "TaskLoss"}, "step": 7, "target": describe(Target(0.3))}
    assert row["hyperparameters"] == expected
    assert row["ablation"] == {"type": "ZeroAblation"}
    assert (row["seed"], row["target_loss"], row["random_draws"]) == (4, 0.3, 2)
    assert row["questions"]["subsets"] == {"type": "RandomSubsets", "draws": 8, "share": 0.5}
    assert row["budgets"] == {"type": "EdgeBudgets", "fractions": [0.3, 1.0], "counts": [2]}
    assert set(row["versions"]) == {"sparse-lens", "torch", "transformer-lens", "python"}
    assert (row["device"], row["dtype"]) == ("cpu", "float32")
    assert row["threads"] == torch.get_num_threads()
    assert row["hardware"]
    assert row["seconds"] > 0
    assert row["forward_passes"] > 0
    assert row["job_seconds"] > row["seconds"]
    assert Record.from_json(row) == record


def test_the_saved_results_can_be_read():
    """Those of docs/frontier: every line is a record, and nothing is lost in reading it."""
    folder = Path(__file__).resolve().parents[2] / "docs" / "frontier"
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    by_id = {record.job_id: record for record in Results.load(folder)}
    assert len(rows) == len(by_id) == 160
    for row in rows:  # they were written before the fields that are missing in them
        again = json.loads(json.dumps(by_id[row["job_id"]].to_json()))
        assert {name: again[name] for name in row} == row


def test_what_is_no_record_or_no_results(tmp_path):
    results = compare([toy.model()], [toy.task()], METHODS, out=tmp_path, budgets=BUDGETS)
    with pytest.raises(ValueError, match="unknown fields \\['colour'\\]"):
        Record.from_json({**results.records[0].to_json(), "colour": 1})
    with pytest.raises(FileNotFoundError, match="no results"):
        Results.load(tmp_path / "elsewhere")
