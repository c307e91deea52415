"""What a user gets with pip: a wheel that holds everything and imports beside anything."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = "import sparse_lens, sparse_lens.baselines, sparse_lens.evals, sparse_lens.evals.tasks"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without network from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_all_three_and_the_embedded_models(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names)), "a file is in the wheel twice"
    tops = {name.split("/")[0] for name in names}
    assert tops == {"sparse_lens", next(top for top in tops if top.endswith(".dist-info"))}
    expected = set()
    for folder in ("sparse_lens", "baselines", "evals"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = path.relative_to(ROOT).as_posix()
                expected.add(inside if folder == "sparse_lens" else f"sparse_lens/{inside}")
    missing = {name for name in expected if name not in names}
    assert not missing


@pytest.mark.slow
def test_it_imports_from_a_fresh_environment_beside_folders_of_the_same_names(wheel, tmp_path):
    """The user's own `evals/` and `baselines/` neither hide ours nor are hidden by them."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = [python, "-m", "pip", "install", "--no-deps", "--no-index", "-q", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # Dependencies come from the running environment; sparse_lens itself from the wheel alone.
    own = output_of(python, "import sysconfig; print(sysconfig.get_paths()['purelib'])")
    dependencies = str(Path(numpy.__file__).parents[1])
    (Path(own) / "zz_dependencies.pth").write_text(dependencies + "\n")

    work = tmp_path / "work"
    for folder in ("evals", "baselines"):
        (work / folder).mkdir(parents=True)
        (work / folder / "__init__.py").write_text("MINE = True\n")
    script = (
        f"{IMPORTS}, evals, baselines; assert evals.MINE and baselines.MINE; "
        "from sparse_lens.evals import tasks; assert tasks.names(); "
        "print(sparse_lens.__file__, sparse_lens.evals.__file__, sparse_lens.baselines.__file__)"
    )
    for path in output_of(python, script, folder=work).split():
        assert path.startswith(own), f"{path} is not from the wheel"


def output_of(python: Path, script: str, folder: Path | None = None) -> str:
    # -E: a PYTHONPATH of the caller must not bring in the checkout.
    command = [python, "-E", "-W", "ignore", "-c", script]
    shown = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.strip()
