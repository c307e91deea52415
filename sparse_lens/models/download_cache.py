"""The folder in which released checkpoints are kept, and what is known of the files in it."""

import contextlib
import json
import os
import secrets
import zipfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pooch

from sparse_lens.models.download import DownloadError, FileRecord, download, sha256_of
from sparse_lens.models.released import BASE_URL, FILES, ReleasedModel

MANIFEST = "manifest.json"
CACHE_VARIABLE = "SPARSE_LENS_CACHE"
BASE_URL_VARIABLE = "SPARSE_LENS_BASE_URL"


def cache_folder(cache: str | Path | None = None) -> Path:
    """`cache`, else the environment's `SPARSE_LENS_CACHE`, else the platform's cache folder."""
    folder = cache or os.environ.get(CACHE_VARIABLE) or pooch.os_cache("sparse-lens")
    return Path(folder).expanduser().absolute()


def base_address(base_url: str | None = None) -> str:
    """`base_url`, else the environment's `SPARSE_LENS_BASE_URL`, else the released one."""
    return base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL


def is_complete(folder: Path) -> bool:
    """Whether a folder has every file of a released model."""
    return all((folder / file).is_file() for file in FILES)


def fetch(model: ReleasedModel, folder: Path, *, base_url: str) -> None:
    """Download the files of a released model that a folder does not have yet.

    Existing files, whether fetched or put there by the user, are checked and kept.

    Raises:
        DownloadError: when a file cannot be fetched; says which files to put where instead.
        ValueError: when an existing file is broken.
    """
    manifest = read_manifest(folder)
    for file, url in model.urls(base_url).items():
        path = folder / file
        record = _existing_record(path, manifest.get(file), model.name) if path.is_file() else None
        if record is None:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                record = download(url, path, check=partial(check_file, name=file))
            except DownloadError as error:
                raise DownloadError(
                    f"cannot fetch {model.name}: {error}. {by_hand(model, folder, base_url)}"
                ) from error
        if record != manifest.get(file):
            manifest[file] = record
            _write_manifest(folder, manifest)


def by_hand(model: ReleasedModel, folder: Path, base_url: str) -> str:
    """Advice for use without network access."""
    files = ", ".join(model.urls(base_url).values())
    return (
        f"Without network access, put these files into {folder}: {files}; "
        f"for another server set {BASE_URL_VARIABLE}."
    )


def problems(folder: Path) -> list[str]:
    """The problems with the files of a released model, a sentence each; reads all files."""
    manifest = read_manifest(folder)
    messages = []
    for file in FILES:
        path, record = folder / file, manifest.get(file)
        if not path.is_file():
            messages.append(f"{path} is missing")
            continue
        try:
            check_file(path, file)
        except ValueError as error:
            messages.append(f"{path} {error}")
            continue
        if record is not None and sha256_of(path) != record.sha256:
            messages.append(f"{path} has changed since it was fetched (sha256 differs)")
    return messages


def remove(folder: Path) -> int:
    """Delete a released model's files, and the folder if nothing else is in it; bytes freed."""
    if not folder.is_dir():
        return 0
    freed = 0
    # Only files of the library, as the cache may be a folder with other files.
    fetched = [folder / file for file in (*FILES, MANIFEST)] + sorted(folder.glob(".*.part"))
    for path in fetched:
        if path.is_file():
            freed += path.stat().st_size
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
    return freed


def check_file(path: Path, name: str) -> None:
    """Raise ValueError, worded to follow a file's name, unless `path` can be read as file `name`.

    There are no upstream digests to compare with, so only the format is checked.
    """
    if name.endswith(".pt"):
        if not zipfile.is_zipfile(path):
            raise ValueError("is not a readable checkpoint (its zip archive is broken or cut off)")
    elif name.endswith(".json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise ValueError(f"holds a JSON {type(content).__name__} where an object is expected")
    else:
        _check_merges(path)


def read_manifest(folder: Path) -> dict[str, FileRecord]:
    """The record of each file; empty when there is no readable manifest."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {file: FileRecord(**record) for file, record in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _check_merges(path: Path) -> None:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error})") from error
    for line in lines:
        if line and not line.startswith("#version") and len(line.split(" ")) != 2:
            raise ValueError(f"is not a list of merges (a line reads {line[:40]!r})")


def _existing_record(path: Path, record: FileRecord | None, name: str) -> FileRecord | None:
    """The record of an existing file; None when it has another size than the one fetched."""
    size = path.stat().st_size
    if record is not None and record.size == size:
        return record
    if record is not None and record.url is not None:
        return None
    try:
        check_file(path, path.name)
    except ValueError as error:
        raise ValueError(
            f"{path} {error}. Put a sound file in its place, or run `sparse-lens models clear "
            f"{name}` and fetch it again."
        ) from error
    return FileRecord(None, size, sha256_of(path))


def _write_manifest(folder: Path, manifest: dict[str, FileRecord]) -> None:
    content = {"files": {file: asdict(record) for file, record in manifest.items()}}
    partial_file = folder / f".{MANIFEST}.{secrets.token_hex(4)}.part"
    # In a folder without write permission the files are usable without a record.
    with contextlib.suppress(OSError):
        try:
            partial_file.write_text(json.dumps(content, indent=1), encoding="utf-8")
            partial_file.replace(folder / MANIFEST)
        finally:
            partial_file.unlink(missing_ok=True)
