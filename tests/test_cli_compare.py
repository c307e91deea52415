"""`sparse-lens compare`: flags become a comparison, and rows are shown as they come."""

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from sparse_lens.cli import app
from sparse_lens.commands.compare_console import COLUMNS, Display
from sparse_lens.commands.compare_presets import PRESETS
from sparse_lens.evals import tasks
from sparse_lens.evals.compare import Comparison
from sparse_lens.evals.harness.running import Progress
from sparse_lens.evals.question import registry
from sparse_lens.evals.records import Record
from sparse_lens.evals.results import Results
from sparse_lens.identity import describe
from sparse_lens.models.checkpoint import save_sparse_gpt
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals import toy_records, toy_tokenizers

SEEDED = (
    *("--tasks", "for_while", "--methods", "attribution-patching,random", "--no-report"),
    *("--seeds", "2", "--no-controls"),
)
"""A method that has no randomness, which runs once, and one that runs with every seed."""

QUICKLY = (
    "--tasks",
    "for_while",
    "--methods",
    "attribution-patching",
    "--no-report",
    "--no-controls",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two checkpoint folders with tokenizers, as the flag takes them."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = toy_tokenizers.suitable()
    for name, activation in (("one", "gelu"), ("two", "relu")):
        model = toy.model(
            vocab_size=1024, block_size=64, tied_unembed=False, activation_type=activation
        )
        model.set_tokenizer(copy.deepcopy(tokenizer))
        model.reference_tokens = torch.arange(128).reshape(2, 64)
        save_sparse_gpt(model, folder / name)
    return f"{folder / 'one'},{folder / 'two'}"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "140"})
    return result.exit_code, result.stdout, result.stderr


def test_rows_summary_and_files(models: str, tmp_path: Path):
    code, printed, _ = run("--models", models, *SEEDED, "--out", str(tmp_path))
    assert code == 0
    rows = [line for line in printed.splitlines() if " for_while " in line and "job" not in line]
    assert [row.split()[:4] for row in rows] == [
        [model, "for_while", *run]
        for model in ("one", "two")
        for run in (("attribution-patching", "none"), ("random", "0"), ("random", "1"))
    ]
    assert "No task can be done by all models" in printed
    results = Results.load(tmp_path)
    assert [(r.model, r.deterministic, r.seed) for r in results] == [
        (model, *run) for model in ("one", "two") for run in ((True, 0), (False, 0), (False, 1))
    ]
    for record, row in zip(results, rows, strict=True):
        chosen = record.chosen
        mark = "" if record.met_on_held_out else "!" if record.met_on_validation else "*"
        assert row.split()[4] == f"{mark}{chosen.n_edges:,}/{chosen.connected_edges:,}"
        assert row.split()[5] == f"{chosen.task_loss:.3f}"
        assert results.circuit_path(record).is_file()
    assert not (tmp_path / "report.html").exists()
    code, printed, _ = run("--models", models, *SEEDED, "--out", str(tmp_path))
    assert (code, printed.count("  before")) == (0, 6)


def test_rows_in_a_file_say_how_far_it_is(models: str, tmp_path: Path):
    code, printed, _ = run("--models", models.split(",")[0], *SEEDED, "--out", str(tmp_path))
    assert code == 0
    rows = [line for line in printed.splitlines() if " for_while " in line]
    assert [row.split()[-3] for row in rows] == ["1/3", "2/3", "3/3"]
    assert rows[2].endswith("0:00:00 left")
    assert "\x1b" not in printed, "no colours, and no bar that moves"


def progress(number: int, remaining: int, record: Record | None, **changes: Any) -> Progress:
    """Of four jobs of one method."""
    return Progress(
        number, 4, "dense&co", "for_while", "random", number, {"random": remaining}, record,
        **changes,
    )  # fmt: skip


def test_the_bar_of_a_terminal_counts_what_ended_in_any_order():
    console = Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None)
    done = replace(toy_records.record("dense&co", "for_while", "random", 0), job_seconds=10.0)
    display = Display(console)
    states = []
    for event in (
        progress(4, 3, done, resumed=True),
        progress(1, 3, None),
        progress(3, 3, None),
        progress(3, 2, done),
    ):
        display.show(event)
        (bar,) = display.bar.tasks
        states.append((bar.completed, bar.total, bar.description, bar.fields["left"]))
    name = "dense&co for_while random"
    assert states[:3] == [
        (1, 4, "", ""), (1, 4, f"job 1: {name}", ""), (1, 4, f"job 3: {name} and 1 more", ""),
    ]  # fmt: skip
    assert states[3][:3] == (2, 4, f"job 1: {name}")
    assert states[3][3].endswith(" left")
    assert console.file.getvalue().count("for_while") == 2  # type: ignore[attr-defined]


def test_the_summary_has_nodes_and_edges_beside_the_graphs_size():
    console = Console(file=io.StringIO(), width=120, color_system=None)
    Display(console).summary(Results(toy_records.records(n_seeds=1)))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    row = next(line for line in printed.splitlines() if line.split()[:2] == ["random", "dense&co"])
    assert row.split()[2:] == ["700", "5,000", "5,000", "2", "0", "0"]
    assert all(len(line) <= 120 for line in printed.splitlines() if "sparse<1>  " in line)


def test_sizes_have_the_digits_that_they_have_in_the_headline(monkeypatch: pytest.MonkeyPatch):
    sizes = {"for_while": 2, "my <i>task</i>": 3}
    monkeypatch.setattr(toy_records, "edges_of", lambda model, task, *_: 2 * sizes[task])
    console = Console(file=io.StringIO(), width=120, color_system=None)
    Display(console).summary(Results(toy_records.records(n_seeds=1)))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    row = next(line for line in printed.splitlines() if "sparse<1>  " in line)
    assert row.split()[2:5] == ["2.45", "4.9", "4.9"]  # the roots of 2 * 3 and of 4 * 6


def test_a_row_fits_120_columns():
    assert sum(width for _, width, _ in COLUMNS) + 2 * (len(COLUMNS) - 1) == 120


@pytest.mark.parametrize(
    ("ablation", "expected_type"), [("zero", "ZeroAblation"), ("resample", "ResampleAblation")]
)
def test_flags_reach_the_methods(models: str, tmp_path: Path, ablation: str, expected_type: str):
    one = models.split(",")[0]
    code, _, _ = run(
        "--models", one, "--tasks", "for_while", "--methods", "attribution-patching",
        "--graph", "component", "--ablation", ablation, "--target-loss", "0.5", "--no-report",
        "--set", "attribution-patching.batch_size=32", "--set", "attribution-patching.nodes=True",
        "--no-controls", "--out", str(tmp_path),
    )  # fmt: skip
    assert code == 0
    (record,) = Results.load(tmp_path).records
    assert (record.graph, record.ablation["type"]) == ("component", expected_type)
    assert record.circuit_given_by == "nodes"
    assert record.target_loss == 0.5
    expected = {"batch_size": 32, "nodes": True, "target": describe(Target(0.5))}
    assert expected.items() <= dict(record.hyperparameters).items()


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (None, list(PRESETS["quick"].named_questions)),
        ("none", []),
        ("subsets,minimality", ["subsets", "minimality"]),
        ("all", list(registry())),
    ],
)
def test_which_questions_are_asked(models: str, tmp_path: Path, flag: str, expected: list[str]):
    given = () if flag is None else ("--questions", flag)
    one = models.split(",")[0]
    code, _, _ = run(
        "--models", one, *QUICKLY, "--target-loss", "50", *given, "--out", str(tmp_path)
    )
    assert code == 0
    (record,) = Results.load(tmp_path).records
    assert list(record.answers) == list(record.questions) == expected
    if "subsets" in expected:
        assert len(record.answers["subsets"]["task_loss"]) == 4


def test_all_tasks_are_those_that_all_models_can_read(
    models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def stop(comparison, out, **rest):
        asked.append(comparison.tasks)
        raise ValueError("asked enough")

    monkeypatch.setattr(Comparison, "run", stop)
    one, out = models.split(",")[0], ("--tasks", "all", "--out", str(tmp_path))
    assert run("--models", one, *out)[0] == 2
    code, printed, _ = run("--models", f"{one},py-sparse", *out)
    assert code == 2
    assert asked[0] == tasks.names()
    left_out = set(tasks.names()) - set(asked[1])
    assert left_out == {"final_kwarg", "enumerate_range"}
    assert all(f"Left out: task '{name}' cannot be put" in printed for name in left_out)


def test_a_failed_job_gives_exit_code_1(models: str, tmp_path: Path):
    code, printed, _ = run(
        "--models", models.split(",")[0], *QUICKLY, "--out", str(tmp_path),
        "--set", "attribution-patching.selection=greedy",  # of nodes
    )  # fmt: skip
    assert code == 1
    assert "failed: one, for_while, attribution-patching, deterministic" in printed
    assert "1 job failed" in printed
    assert Results.load(tmp_path).failed[0].error is not None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--preset", "slow"), "no preset 'slow'; there are quick, full"),
        (("--graph", "tree"), "no graph 'tree'; there are channel, component"),
        (("--ablation", "one"), "no ablation 'one'; there are mean, zero, interchange"),
        (("--questions", "why"), "no question 'why'; there are adversary, attention-agreement"),
        (("--methods", "magic"), "no method 'magic'; there are acdc, attribution-patching"),
        (("--models", "nobody"), "no model 'nobody'"),
        (("--workers", "0"), "workers must be 1 or more, got 0"),
        (("--tasks", "nothing"), "no task 'nothing'"),
        (("--set", "k_coef=1"), "--set takes NAME.FIELD=VALUE"),
        (("--set", "magic.k=1"), "no method or question in this comparison 'magic'"),
        (("--set", "minimality.k=1"), "minimality has no field 'k'; it has nodes"),
        (("--set", "minimality.nodes=0"), "nodes must be 1 or more, got 0"),
        (("--set", "node-pruning.k=1"), "node-pruning has no field 'k'; it has objective"),
        (("--set", "node-pruning.k_coef=high"), "'high' is not a number"),
        (
            ("--methods", "attribution-patching", "--steps", "3"),
            "none of attribution-patching takes",
        ),
    ],
)
def test_bad_flags_are_one_line(flags: tuple[str, ...], message: str, models: str, tmp_path: Path):
    given = flags if "--models" in flags else ("--models", models, *flags)
    code, _, error = run(*given, "--out", str(tmp_path / "none"))
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "none").exists(), "nothing is made before the flags are understood"


def test_controls_are_run_and_said_in_words(models: str, tmp_path: Path):
    given = ("--models", models.split(",")[0], "--tasks", "for_while", "--no-report")
    methods = ("--methods", "attribution-patching", "--out", str(tmp_path))
    code, printed, _ = run(*given, *methods)
    assert code == 0
    jobs = [(record.model, record.task, record.control) for record in Results.load(tmp_path)]
    assert jobs == [
        ("one", "for_while", None),
        ("one", "nonsense", "task"),
        ("random:one", "for_while", "model"),
    ]
    sentence = "on the task without a rule (nonsense) 0 of 1 search met the target"
    assert sentence in " ".join(printed.split())
