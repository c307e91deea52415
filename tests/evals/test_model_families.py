"""Ratios over several trained seeds of a model, against sums and a bootstrap by hand."""

import io
import json
import math
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from rich.console import Console

from sparse_lens.commands.compare_console import Display
from sparse_lens.evals.compare import Comparison
from sparse_lens.evals.intervals import crossed_interval, spread_of
from sparse_lens.evals.model_families import family_name, family_ratios
from sparse_lens.evals.records import Record
from sparse_lens.evals.report import report_html
from sparse_lens.evals.results import Results
from sparse_lens.evals.summary import summarize
from sparse_lens.models.checkpoint import save_sparse_gpt
from tests.evals import toy_comparison as toy
from tests.evals.test_report import text_of
from tests.evals.test_summary import record
from tests.evals.toy_comparison import ByIndex


def records_of(
    sizes: dict[str, list[int]], families: dict[str, str], **changes: Any
) -> list[Record]:
    """Sizes by model, one a task."""
    return [
        record(model, f"t{i}", size, training_hash=families.get(model), **changes)
        for model, of_model in sizes.items()
        for i, size in enumerate(of_model)
    ]


SIZES = {"sparse-s0": [2, 8], "sparse-s1": [8, 8], "dense": [16, 64]}
FAMILIES = {"sparse-s0": "f", "sparse-s1": "f", "dense": "g"}


def test_by_hand():
    """16 / sqrt(2 * 8) = 4 and 64 / 8 = 8 by task; sqrt(8 * 8) and sqrt(2 * 8) by pair."""
    records = records_of(SIZES, FAMILIES)
    summary = summarize(records)
    (ratio,) = family_ratios(records, summary)
    assert (ratio.dense, ratio.sparse) == (("dense",), ("sparse-s0", "sparse-s1"))
    assert ratio.by_task == {"t0": pytest.approx(4), "t1": pytest.approx(8)}
    assert ratio.by_pair == {
        ("dense", "sparse-s0"): pytest.approx(8),
        ("dense", "sparse-s1"): pytest.approx(4),
    }
    assert ratio.mean == pytest.approx(32**0.5)
    assert ratio.interval is None
    assert ratio.sentence == (
        "m: dense needs 5.66 times as many edges as sparse (2 trained seeds) (range over 2 tasks: "
        "4 to 8; range over 2 pairs of models: 4 to 8)."
    )
    assert len(summary.ratios) == 2
    assert summary.statements == (), "pairs of models are in the ratio of their families"


def test_seeds_of_the_method_are_averaged_first():
    records = records_of(SIZES, FAMILIES) + records_of(
        {model: [4 * size for size in sizes] for model, sizes in SIZES.items()}, FAMILIES, seed=1
    )
    (ratio,) = family_ratios(records, summarize(records))
    assert ratio.mean == pytest.approx(32**0.5)


@pytest.mark.parametrize("families", [{}, {"sparse-s0": "f", "sparse-s1": "h", "dense": "g"}])
def test_models_alone_make_no_family(families: dict[str, str]):
    records = records_of(SIZES, families)
    summary = summarize(records)
    assert family_ratios(records, summary) == ()
    assert len(summary.statements) == 2


def test_the_interval_against_a_slow_bootstrap():
    """Tasks and models drawn one by one; models vary more than tasks, which rows alone miss."""
    generator = torch.Generator().manual_seed(0)
    dense = (
        3 + torch.randn(8, 1, generator=generator) + 0.1 * torch.randn(8, 4, generator=generator)
    )
    sparse = torch.randn(8, 5, generator=generator) + 2 * torch.randn(1, 5, generator=generator)
    low, high = crossed_interval(dense, sparse)
    draw = random.Random(0)
    differences = []
    for _ in range(4000):
        tasks = draw.choices(range(8), k=8)
        d, s = draw.choices(range(4), k=4), draw.choices(range(5), k=5)
        differences.append(
            fmean(float(dense[t, m]) for t in tasks for m in d)
            - fmean(float(sparse[t, m]) for t in tasks for m in s)
        )
    differences.sort()
    assert low == pytest.approx(differences[100], abs=0.12)
    assert high == pytest.approx(differences[-101], abs=0.12)
    rows_alone = spread_of((dense.mean(1) - sparse.mean(1))[:, None].tolist()).interval
    assert rows_alone is not None
    assert high - low > 1.3 * (math.log(rows_alone[1]) - math.log(rows_alone[0]))
    assert (low, high) == crossed_interval(dense, sparse)


def test_one_model_of_each_leaves_the_interval_over_tasks():
    table = torch.randn(9, 1, generator=torch.Generator().manual_seed(1))
    low, high = crossed_interval(table, torch.zeros(9, 1))
    interval = spread_of(table.tolist()).interval
    assert interval is not None
    assert [math.exp(low), math.exp(high)] == pytest.approx(list(interval), rel=0.05)


def test_five_tasks_have_an_interval_which_is_said():
    sizes = {
        "a-sparse": [2, 3, 4, 5, 6],
        "b-sparse": [3, 3, 4, 9, 6],
        "dense": [20, 40, 30, 60, 70],
    }
    records = records_of(sizes, {"a-sparse": "f", "b-sparse": "f"}, pretraining_loss=3.0)
    (ratio,) = family_ratios(records, summarize(records))
    assert ratio.interval is not None
    low, high = ratio.interval
    assert low < ratio.mean < high
    assert (
        f"(95% interval over 5 tasks and trained models: {low:.3g} to {high:.3g}; range over 2"
        in (ratio.sentence)
    )
    assert ratio.sentence in text_of(report_html(Results(tuple(records))))
    console = Console(file=io.StringIO(), width=1000, color_system=None)
    Display(console).summary(Results(tuple(records)))
    assert ratio.sentence in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("models", "name"),
    [
        (["dense"], "dense"),
        (["py-s0", "py-s1"], "py (2 trained seeds)"),
        (["py.seed10", "py.seed11"], "py (2 trained seeds)"),
        (["js", "js-1", "js-2"], "js (3 trained seeds)"),
        (["dense-48-0", "dense-48-1"], "dense-48 (2 trained seeds)"),
        (["one", "two"], "one, two (2 trained seeds)"),
    ],
)
def test_names(models: list[str], name: str):
    assert family_name(models) == name


def test_a_family_is_what_was_trained_alike(tmp_path: Path):
    """The seed is in no setting, so that training with another one leaves the family as it is."""
    logs: dict[str, Any] = {
        "a-s0": {"config": {"n_steps": 7}, "command": "train a --seed 0"},
        "a-s1": {"config": {"n_steps": 7}, "command": "train a --seed 1"},
        "longer": {"config": {"n_steps": 8}, "command": "train a --seed 0"},
        "unknown": {"final": {}},
        "odd": ["config"],
    }
    for seed, (name, log) in enumerate(logs.items()):
        model = toy.model(tied_unembed=False)
        model.init_weights(seed)
        save_sparse_gpt(model, tmp_path / name)
        (tmp_path / name / "training.json").write_text(json.dumps(log))
    names = [str(tmp_path / name) for name in logs] + [f"random:{tmp_path / 'a-s0'}"]
    jobs = Comparison(names, [toy.task()], [ByIndex()]).jobs()
    first, second, longer, *others = (job.blank().training_hash for job in jobs)
    assert first == second != longer
    assert None not in (first, longer)
    assert others == [None] * 3, "nothing is known of them, and random weights have no training"
