"""Atomic writes: a file is written completely or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path

_UNFINISHED = ".part"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one step: other processes read either all of it or the previous content.

    Raises:
        FileNotFoundError: when the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete temporary files that killed calls of `write_atomically` left in a folder.

    No process may be writing to the folder meanwhile.
    """
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)
