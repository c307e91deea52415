"""One thread a process, slow files first, reference data, and packages of others."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# The models here are tiny: a second thread costs more than it brings, also beside other jobs.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker waits for one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of reference data that lies beside a development checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"reference data is not installed at {folder}")
    return folder


@pytest.fixture
def install_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Install `their_package` with one entry point, for the time of a test."""

    def install(
        group: str, entry_point: str, source: str = "", distribution: str = "their-package"
    ) -> None:
        (tmp_path / "their_package.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry_point}\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("their_package", None)
