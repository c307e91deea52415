"""`sparse-lens methods` and `questions`, and those that other packages add."""

import io
import os
import subprocess
import sys
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from sparse_lens.cli import app
from sparse_lens.commands.installed import describe
from sparse_lens.evals.question import registry as question_registry
from sparse_lens.evals.report import report_html
from sparse_lens.evals.results import Results
from sparse_lens.method import Method, registry
from sparse_lens.models.checkpoint import save_sparse_gpt
from tests.evals import toy_comparison as toy
from tests.evals import toy_tokenizers

ROOT = Path(__file__).resolve().parents[1]


def listed_by(command: str) -> list[list[str]]:
    """The lines of each entry."""
    result = CliRunner().invoke(app, [command], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    text = "\n".join(line.strip() for line in result.stdout.strip().splitlines())
    *entries, (hint,) = [block.split("\n") for block in text.split("\n\n")]
    assert "--set" in hint
    return entries


@pytest.mark.parametrize(
    ("command", "registry"),
    [("methods", registry), ("questions", question_registry)],
)
def test_everything_is_listed_with_its_fields(command, registry):
    entries = listed_by(command)
    assert [name for name, *_ in entries] == list(registry())
    for (_, described, *listed), cls in zip(entries, registry().values(), strict=True):
        assert described
        assert (cls.__doc__ or "").startswith(described)
        assert [line.split(" = ")[0] for line in listed] == [each.name for each in fields(cls)]


def test_fields_are_listed_with_their_defaults():
    attribution = next(rest for name, *rest in listed_by("methods") if name.startswith("attrib"))
    assert "objective = TaskLoss()" in attribution
    assert "estimator = 'eap'" in attribution
    minimality = next(rest for name, *rest in listed_by("questions") if name == "minimality")
    assert "nodes = 32" in minimality


@dataclass(frozen=True)
class Bare(Method):
    rounds: int
    sizes: tuple[int, ...] = field(default_factory=lambda: (1, 2))

    def discover(self, model, graph, task, *, ablation, seed=0):
        raise NotImplementedError


def test_a_method_without_docstring_or_defaults():
    console = Console(width=150, file=io.StringIO())
    with console.capture() as capture:
        console.print(describe({"bare": Bare}))
    text = capture.get()
    assert "rounds, which must be given" in text
    assert "sizes = (1, 2)" in text
    assert "Bare(" not in text


PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "somebody-elses"
version = "1.0"

[project.entry-points."sparse_lens.methods"]
no-edges = "somebody_elses:NoEdges"

[project.entry-points."sparse_lens.questions"]
size = "somebody_elses:Size"
"""

MODULE = '''
from dataclasses import dataclass

import torch

import sparse_lens as sl
from sparse_lens.evals.question import Column, Question
from sparse_lens.cost import Cost


@dataclass(frozen=True)
class NoEdges(sl.Method):
    """Leave everything out.

    Fast.
    """

    objective: sl.Objective = sl.TaskLoss()
    boldness: float = 0.25

    def discover(self, model, graph, task, *, ablation, seed=0):
        scores = sl.Scores(graph, nodes=graph.unflatten(torch.zeros(graph.n_nodes)))
        return sl.Discovery(self, task.name, scores, None, Cost(), seed)


@dataclass(frozen=True)
class Size(Question):
    """How large the circuit is."""

    times: int = 1

    def ask(self, subject):
        return {"nodes": self.times * subject.circuit.n_nodes}

    @property
    def columns(self):
        return (Column("nodes", "size", "nodes that it keeps", "large?", "Small is nice."),)
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where another package with a method and a question is installed."""
    folder = tmp_path_factory.mktemp("somebody")
    project, installed = folder / "project", folder / "installed"
    (project / "somebody_elses").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "somebody_elses" / "__init__.py").write_text(MODULE)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target"]
    install = [sys.executable, "-m", "pip", "install", *options, str(installed), str(project)]
    subprocess.run(install, check=True, capture_output=True)
    path = os.pathsep.join([str(installed), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}


def run(environment: dict[str, str], program: str) -> str:
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.slow
def test_another_package_adds_a_method(environment):
    shown = run(
        environment,
        "from sparse_lens.method import registry\n"
        "method = registry()['no-edges']()\n"
        "assert (type(method).__module__, method.boldness) == ('somebody_elses', 0.25)\n"
        "from sparse_lens.cli import app\n"
        "app(['methods'])\n",
    )
    lines = [line.strip() for line in shown.splitlines()]
    assert lines[lines.index("no-edges") + 1] == "Leave everything out."
    assert "boldness = 0.25" in shown
    assert "node-pruning" in shown


@pytest.mark.slow
def test_another_package_adds_a_question(environment, tmp_path):
    """From its name on the command line to the report, which is then written without it."""
    shown = run(environment, "from sparse_lens.cli import app\napp(['questions'])\n")
    assert "How large the circuit is." in shown
    folder = save_sparse_gpt_with_tokenizer(tmp_path / "model")
    command = [
        "compare", "--models", str(folder), "--tasks", "for_while", "--methods",
        "attribution-patching", "--target-loss", "50", "--questions", "size", "--set",
        "size.times=10", "--out", str(tmp_path / "out"), "--no-report",
        "--no-controls",
    ]  # fmt: skip
    run(environment, f"from sparse_lens.cli import app\napp({command!r})\n")
    results = Results.load(tmp_path / "out")
    (record,) = results
    assert "size" not in question_registry()
    assert record.questions == {"size": {"type": "Size", "times": 10}}
    assert record.answers == {"size": {"nodes": 10 * record.chosen.n_nodes}}
    page = report_html(results)
    assert "Small is nice." in page
    assert f">{10 * record.chosen.n_nodes:.3f}<" in page


def save_sparse_gpt_with_tokenizer(folder: Path) -> Path:
    model = toy.model(vocab_size=1024, block_size=64, tied_unembed=False)
    model.set_tokenizer(toy_tokenizers.suitable())
    model.reference_tokens = torch.arange(128).reshape(2, 64)
    save_sparse_gpt(model, folder)
    return folder


def test_the_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.strip()) == (0, version("sparse-lens"))
