"""The software and hardware that a result was computed with."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from sparse_lens._version import __version__


def installed_versions() -> dict[str, str]:
    """Versions of sparse-lens, torch, transformer-lens and Python in this process."""
    return {
        "sparse-lens": __version__,
        "torch": torch.__version__,
        "transformer-lens": version("transformer-lens"),
        "python": platform.python_version(),
    }


def hardware(device: torch.device | str | None) -> str:
    """Name of a CUDA device; for others that of the processor, as the system reports it."""
    if torch.device(device or "cpu").type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
