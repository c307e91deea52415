"""`sparse-lens models`: what it prints, and that errors are one line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparse_lens.cli import app
from tests.models.http_server import Answer, Server, serving
from tests.models.test_zoo import NAME, store


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(store()) as running:
        monkeypatch.setenv("SPARSE_LENS_BASE_URL", running.url)
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSE_LENS_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "150")
    return tmp_path


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_lists_models_with_the_sweep_in_one_row(server: Server):
    code, listed, _ = run("models")
    assert code == 0
    for name in ("csp_yolo1", "csp_bridges2", "dense1_4x", "csp_sweep1_*", "unavailable"):
        assert name in listed
    assert "125 sparse models" in listed
    assert NAME not in listed
    assert server.requests == []

    assert run("models", "fetch", NAME)[0] == 0
    _, listed, _ = run("models")
    (row,) = (line for line in listed.splitlines() if NAME in line)
    assert "cached" in row
    assert "124 sparse models" in listed
    _, listed, _ = run("models", "--all")
    assert listed.count("csp_sweep1_") == 125
    assert "csp_sweep1_*" not in listed


def test_fetch_path_verify_and_clear(server: Server, cache: Path):
    assert run("models", "path", NAME)[:2] == (0, f"{cache / NAME}\n")
    assert not (cache / NAME).exists()
    assert run("models", "fetch", NAME)[:2] == (0, f"{cache / NAME}\n")
    assert run("models", "verify")[:2] == (0, f"{NAME}: as fetched\n")
    (cache / NAME / "final_model.pt").write_bytes(b"")
    code, output, _ = run("models", "verify", NAME)
    assert code == 1
    assert "final_model.pt is not a readable checkpoint" in output

    code, output, _ = run("models", "clear", stdin="n\n")
    assert code == 1
    assert str(cache) in output
    assert (cache / NAME).exists()
    code, output, _ = run("models", "clear", NAME, stdin="y\n")
    assert code == 0
    assert f"{NAME}: " in output
    assert "freed" in output
    assert not (cache / NAME).exists()
    assert run("models", "clear", "--yes")[:2] == (0, "nothing was cached\n")


def test_base_url_option(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPARSE_LENS_BASE_URL", "http://127.0.0.1:1")
    assert run("models", "fetch", NAME, "--base-url", server.url)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("path", "csp_yolo3"), 2, "Did you mean"),
        (("clear", "csp_yolo3", "--yes"), 2, "Did you mean"),
        (("fetch", "csp_bridges1"), 2, "empty or corrupt"),
        (("fetch", NAME), 1, "404 Not Found"),
    ],
)
def test_errors_are_one_line(server: Server, arguments: tuple[str, ...], code: int, message: str):
    server.answers.clear()
    result, output, error = run("models", *arguments)
    assert (result, output) == (code, "")
    (line,) = (line for line in error.splitlines() if line.startswith("Error: "))
    assert message in line
    assert "Traceback" not in error
    raised = CliRunner().invoke(app, ["--traceback", "models", *arguments]).exception
    assert isinstance(raised, OSError if code == 1 else ValueError)


def test_a_page_in_place_of_a_checkpoint(server: Server):
    server.answers[f"/store/models/{NAME}/final_model.pt"] = Answer(b"<html></html>")
    code, _, error = run("models", "fetch", NAME)
    assert code == 1
    assert "web page" in error


def test_help_does_not_import_torch():
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from sparse_lens.cli import app\n"
        "for arguments in (['--help'], ['models', '--help'], ['models']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
