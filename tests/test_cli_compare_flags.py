"""Lists in the flags of `sparse-lens compare`: with commas, repeated, or both."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparse_lens.cli import app
from sparse_lens.commands import compare as command
from sparse_lens.commands.compare_presets import QUICK
from sparse_lens.evals.questions import QUESTIONS
from sparse_lens.evals.results import Results

WAYS = {
    "commas": (("a,b,c",), ("a", "b", "c")),
    "repeated": (("a", "b", "c"), ("a", "b", "c")),
    "both": (("a,b", " c ", "d,"), ("a", "b", "c", "d")),
    "one": (("a",), ("a",)),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `compare` is called with; nothing is run."""
    found: dict[str, Any] = {}

    def compare(models: Any, tasks: Any, methods: Any, **more: Any) -> Results:
        found.update(models=models, tasks=tasks, methods=tuple(methods), **more)
        return Results(())

    monkeypatch.setattr(command, "compare", compare)
    return found


def run(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["compare", "--out", str(tmp_path), *arguments])
    return found.exit_code, found.stderr


@pytest.mark.parametrize("flag", ["models", "tasks"])
@pytest.mark.parametrize("way", WAYS)
def test_names_add_up(asked: dict[str, Any], tmp_path: Path, flag: str, way: str) -> None:
    typed, expected = WAYS[way]
    code, _ = run(tmp_path, *(part for name in typed for part in (f"--{flag}", name)))
    assert code == 0
    assert asked[flag] == expected
    others = {"models": QUICK.models, "tasks": QUICK.tasks}
    assert all(asked[name] == value for name, value in others.items() if name != flag)


@pytest.mark.parametrize(
    "typed",
    [("random,node-pruning",), ("random", "node-pruning")],
)
def test_methods_add_up(asked: dict[str, Any], tmp_path: Path, typed: tuple[str, ...]) -> None:
    code, _ = run(tmp_path, *(part for name in typed for part in ("--methods", name)))
    assert code == 0
    assert asked["methods"] == ("random", "node-pruning")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("minimality,completeness",), {"minimality", "completeness"}),
        (("minimality", "completeness"), {"minimality", "completeness"}),
        (("all",), set(QUESTIONS)),
        (("none",), set()),
        ((), set(QUESTIONS) - {"completeness"}),
    ],
)
def test_questions_add_up(
    asked: dict[str, Any], tmp_path: Path, typed: tuple[str, ...], expected: set[str]
) -> None:
    code, _ = run(tmp_path, *(part for name in typed for part in ("--questions", name)))
    assert code == 0
    questions = asked["questions"]
    assert {name for name, field in QUESTIONS.items() if getattr(questions, field)} == expected


@pytest.mark.usefixtures("asked")
def test_none_is_not_one_of_several(tmp_path: Path) -> None:
    code, error = run(tmp_path, "--questions", "none", "--questions", "minimality")
    assert (code, "no question 'none'" in error) == (2, True)
