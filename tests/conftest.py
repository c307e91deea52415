"""One thread a process, files with slow tests first, and where the reference data lies."""

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
