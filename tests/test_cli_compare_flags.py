"""Lists in the flags of `sparse-lens compare`: with commas, repeated, or both."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparse_lens.cli import app
from sparse_lens.commands.compare_presets import QUICK
from sparse_lens.evals.compare import Comparison
from sparse_lens.evals.harness.sources import TaskSource
from sparse_lens.evals.question import registry
from sparse_lens.evals.questions import Completeness, Minimality
from sparse_lens.evals.results import Results

WAYS = {
    "commas": (("a,b,c",), ("a", "b", "c")),
    "repeated": (("a", "b", "c"), ("a", "b", "c")),
    "both": (("a,b", " c ", "d,"), ("a", "b", "c", "d")),
    "one": (("a",), ("a",)),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Comparison]:
    """The comparisons that run; nothing is computed."""
    comparisons: list[Comparison] = []

    def run(self: Comparison, out: Path, **_: Any) -> Results:
        comparisons.append(self)
        return Results(())

    monkeypatch.setattr(Comparison, "run", run)
    # Names are made up: nothing looks for their tasks.
    monkeypatch.setattr(TaskSource, "of", lambda task, *_: TaskSource(task))
    return comparisons


def run(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["compare", "--out", str(tmp_path), *arguments])
    return found.exit_code, found.stderr


@pytest.mark.parametrize("flag", ["models", "tasks"])
@pytest.mark.parametrize("way", WAYS)
def test_names_add_up(asked: list[Comparison], tmp_path: Path, flag: str, way: str) -> None:
    typed, expected = WAYS[way]
    code, _ = run(tmp_path, *(part for name in typed for part in (f"--{flag}", name)))
    assert code == 0
    (comparison,) = asked
    assert getattr(comparison, flag) == expected
    others = {"models": QUICK.models, "tasks": QUICK.tasks}
    assert all(getattr(comparison, name) == value for name, value in others.items() if name != flag)


@pytest.mark.parametrize(
    "typed",
    [("random,node-pruning",), ("random", "node-pruning")],
)
def test_methods_add_up(asked: list[Comparison], tmp_path: Path, typed: tuple[str, ...]) -> None:
    code, _ = run(tmp_path, *(part for name in typed for part in ("--methods", name)))
    assert code == 0
    (comparison,) = asked
    assert list(comparison.named_methods) == ["random", "node-pruning"]
    assert comparison.named_methods["node-pruning"] == QUICK.named_methods["node-pruning"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("minimality,completeness",), ["minimality", "completeness"]),
        (("minimality", "completeness"), ["minimality", "completeness"]),
        (("all",), list(registry())),
        (("none",), []),
        ((), list(QUICK.named_questions)),
    ],
)
def test_questions_add_up(
    asked: list[Comparison], tmp_path: Path, typed: tuple[str, ...], expected: list[str]
) -> None:
    code, _ = run(tmp_path, *(part for name in typed for part in ("--questions", name)))
    assert code == 0
    (comparison,) = asked
    assert list(comparison.named_questions) == expected
    for name, question in comparison.named_questions.items():
        assert question == QUICK.named_questions.get(name, registry()[name]())


def test_fields_of_methods_and_questions_can_be_set(
    asked: list[Comparison], tmp_path: Path
) -> None:
    code, _ = run(
        tmp_path, "--questions", "minimality,completeness", "--set", "completeness.share=0.25",
        "--set", "node-pruning.k_coef=0.5", "--seeds", "4", "--device", "meta",
    )  # fmt: skip
    assert code == 0
    (comparison,) = asked
    assert comparison.named_questions == {
        "minimality": Minimality(nodes=8), "completeness": Completeness(share=0.25),
    }  # fmt: skip
    assert comparison.named_methods["node-pruning"].k_coef == 0.5  # type: ignore[attr-defined]
    assert (comparison.seeds, comparison.device) == (4, "meta")
    assert comparison.budgets == QUICK.budgets


@pytest.mark.usefixtures("asked")
def test_none_is_not_one_of_several(tmp_path: Path) -> None:
    code, error = run(tmp_path, "--questions", "none", "--questions", "minimality")
    assert (code, "no question 'none'" in error) == (2, True)
