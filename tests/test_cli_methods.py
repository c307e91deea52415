"""`sparse-lens methods`, and methods that other packages add."""

import io
import os
import subprocess
import sys
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sparse_lens.cli import app
from sparse_lens.commands.methods import describe
from sparse_lens.method import Method, registry

ROOT = Path(__file__).resolve().parents[1]


def test_every_method_is_listed_with_its_fields():
    result = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    text = "\n".join(line.strip() for line in result.stdout.strip().splitlines())
    *methods, (hint,) = [block.split("\n") for block in text.split("\n\n")]
    assert "--set" in hint
    assert [name for name, *_ in methods] == list(registry())
    for (_, described, *listed), cls in zip(methods, registry().values(), strict=True):
        assert described
        assert (cls.__doc__ or "").startswith(described)
        assert [line.split(" = ")[0] for line in listed] == [each.name for each in fields(cls)]
    attribution = next(rest for name, *rest in methods if name == "attribution-patching")
    assert "objective = TaskLoss()" in attribution
    assert "estimator = 'eap'" in attribution


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
name = "somebody-elses-methods"
version = "1.0"

[project.entry-points."sparse_lens.methods"]
no-edges = "somebody_elses_methods:NoEdges"
"""

MODULE = '''
from dataclasses import dataclass

import torch

import sparse_lens as sl
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
'''


@pytest.mark.slow
def test_another_package_adds_a_method(tmp_path):
    project, installed = tmp_path / "project", tmp_path / "installed"
    (project / "somebody_elses_methods").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "somebody_elses_methods" / "__init__.py").write_text(MODULE)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target"]
    install = [sys.executable, "-m", "pip", "install", *options, str(installed), str(project)]
    subprocess.run(install, check=True, capture_output=True)

    program = (
        "from sparse_lens.method import registry\n"
        "method = registry()['no-edges']()\n"
        "assert (type(method).__module__, method.boldness) == ('somebody_elses_methods', 0.25)\n"
        "from sparse_lens.cli import app\n"
        "app(['methods'])\n"
    )
    path = os.pathsep.join([str(installed), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    lines = [line.strip() for line in shown.stdout.splitlines()]
    assert lines[lines.index("no-edges") + 1] == "Leave everything out."
    assert "boldness = 0.25" in shown.stdout
    assert "node-pruning" in shown.stdout


def test_the_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.strip()) == (0, version("sparse-lens"))
