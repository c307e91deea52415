"""What a result was computed with."""

import platform
from importlib.metadata import version

import torch

import sparse_lens


def installed_versions() -> dict[str, str]:
    """Versions of sparse-lens, torch, transformer-lens and Python, as they run now."""
    return {
        "sparse-lens": sparse_lens.__version__,
        "torch": torch.__version__,
        "transformer-lens": version("transformer-lens"),
        "python": platform.python_version(),
    }
