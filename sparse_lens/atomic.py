"""Files that are written whole or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path

_UNFINISHED = ".part"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one step: whoever reads it finds all of it, or what was there before.

    Raises:
        FileNotFoundError: when there is no such folder.
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
    """Delete what `write_atomically` left of its work when it was killed; nobody may be writing."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)
