"""Lists in the flags of `sparse-lens compare`: with commas, repeated, or both."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparse_lens.ablation import Ablation, InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.baselines.acdc import ACDC
from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.baselines.random_scores import RandomScores
from sparse_lens.cli import app
from sparse_lens.commands import compare_command
from sparse_lens.commands.compare_presets import QUICK
from sparse_lens.commands.names import made
from sparse_lens.evals.compare import Comparison
from sparse_lens.evals.harness.sources import TaskSource
from sparse_lens.evals.question import registry
from sparse_lens.evals.questions import Completeness, Minimality
from sparse_lens.evals.results import Results
from sparse_lens.method import Method
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference, TaskLoss
from tests.evals.toy_comparison import ByIndex

WAYS = {
    "commas": (("a,b,c",), ("a", "b", "c")),
    "repeated": (("a", "b", "c"), ("a", "b", "c")),
    "both": (("a,b", " c ", "d,"), ("a", "b", "c", "d")),
    "one": (("a",), ("a",)),
}


@dataclass(frozen=True)
class Holder(ByIndex):
    """Has fields that hold methods and ablations."""

    method: Method = field(default_factory=AttributionPatching)
    maybe: int | Method | None = None
    ablation: Ablation = field(default_factory=MeanAblation)
    untyped: Any = field(default_factory=MeanAblation)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Comparison]:
    """The comparisons that run; nothing is computed."""
    comparisons: list[Comparison] = []

    def run(self: Comparison, out: Path, **_: Any) -> Results:
        comparisons.append(self)
        return Results(())

    monkeypatch.setattr(Comparison, "run", run)
    # Names are made up: nothing looks for their tasks.
    monkeypatch.setattr(TaskSource, "of", lambda task, *_, **__: TaskSource(task))
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


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), [TaskLoss] * 3),
        (("--objective", "kl"), [KLDivergence] * 3),
        (("--objective", "logit-difference"), [NegatedLogitDifference] * 3),
        (("--objective", "none"), [KLDivergence, KLDivergence, TaskLoss]),
        (("--set", "acdc.objective=kl"), [TaskLoss, KLDivergence, TaskLoss]),
        (
            ("--objective", "logit-difference", "--set", "acdc.objective=task-loss"),
            [NegatedLogitDifference, TaskLoss, NegatedLogitDifference],
        ),
        (
            ("--objective", "none", "--set", "acdc.objective=task-loss"),
            [KLDivergence, TaskLoss, TaskLoss],
        ),
    ],
)
def test_the_objective_of_all_methods_and_of_one(
    asked: list[Comparison], tmp_path: Path, flags: tuple[str, ...], expected: list[type]
) -> None:
    code, error = run(tmp_path, "--methods", "edge-pruning,acdc,node-pruning", *flags)
    assert (code, error) == (0, "")
    (comparison,) = asked
    methods = comparison.compared_methods.values()
    assert [type(method.objective) for method in methods] == expected


@pytest.fixture
def holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method `holder` whose fields hold methods and ablations."""
    monkeypatch.setattr(compare_command, "method_registry", lambda: {"holder": Holder})


@pytest.mark.usefixtures("holders")
def test_objects_are_set_by_name(asked: list[Comparison], tmp_path: Path) -> None:
    values = ("method=acdc", "maybe=random", "ablation=zero", "untyped=interchange")
    flags = [flag for value in values for flag in ("--set", f"holder.{value}")]
    code, error = run(tmp_path, "--methods", "holder", *flags)
    assert (code, error) == (0, "")
    run(tmp_path, "--methods", "holder", "--set", "holder.maybe=acdc", "--set", "holder.maybe=None")
    given, without = (comparison.named_methods["holder"] for comparison in asked)
    assert given == Holder(
        method=ACDC(), maybe=RandomScores(), ablation=ZeroAblation(), untyped=InterchangeAblation()
    )
    assert without == Holder()


@pytest.mark.usefixtures("asked", "holders")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--objective", "task_loss"),
            "no objective 'task_loss'; there are task-loss, kl, logit-difference, "
            "probability-difference, none. Did you mean 'task-loss'?",
        ),
        (("--set", "holder.objective=3"), "no objective for holder.objective '3'; there are"),
        (("--set", "holder.objective=None"), "no objective for holder.objective 'None'"),
        (("--set", "holder.method=adcd"), "Did you mean 'acdc'?"),
        (("--set", "holder.ablation=means"), "Did you mean 'mean'?"),
        (("--set", "holder.methods=acdc"), "holder has no field 'methods'; it has objective"),
        (("--set", "node-pruning.k=x"), "no method or question in this comparison 'node-pruning'"),
    ],
)
def test_unknown_objects_are_named(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    code, error = run(tmp_path, "--methods", "holder", *flags)
    assert code == 2
    assert message in error


def test_a_class_that_cannot_be_made_without_its_fields_says_so() -> None:
    @dataclass
    class Demanding:
        size: int
        colour: str = "red"

    with pytest.raises(ValueError, match=r"thing 'demanding' must be given size, .* Demanding\("):
        made("thing", {"demanding": Demanding}, "demanding")
