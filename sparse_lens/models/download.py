"""Fetch one file over HTTP, so that it exists only when it is complete."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_TIMEOUT = (10, 60)  # seconds, to connect and between two reads
_CHUNK = 1 << 18  # bytes
_MARKUP = (b"<!doctype", b"<html", b"<?xml")


class DownloadError(ConnectionError):
    """A file could not be fetched completely."""


@dataclass(frozen=True)
class FileRecord:
    """The source of a file, and its size and digest."""

    url: str | None
    """None for a file that the user put there."""

    size: int
    sha256: str


def download(url: str, target: Path, *, check: Callable[[Path], None]) -> FileRecord:
    """Fetch `url` into `target`, which appears only when it is complete and `check` accepts it.

    Raises:
        DownloadError: naming the address and the cause; nothing is left behind.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        record = _stream(url, partial)
        check(partial)
        partial.replace(target)
    except requests.RequestException as error:
        raise DownloadError(f"{url}: {_cause(error)}") from error
    except ValueError as error:  # from check
        raise DownloadError(f"{url}: the file that came {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return record


def sha256_of(path: Path) -> str:
    """The hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _stream(url: str, path: Path) -> FileRecord:
    digest = hashlib.sha256()
    size = 0
    # Uncompressed, so that the announced length is that of the file.
    headers = {"Accept-Encoding": "identity"}
    with (
        requests.get(url, stream=True, timeout=_TIMEOUT, headers=headers) as response,
        path.open("xb") as file,
        _progress() as progress,
    ):
        response.raise_for_status()
        expected = _announced_length(response)
        task = progress.add_task(url.rpartition("/")[2], total=expected)
        for chunk in response.iter_content(_CHUNK):
            if size == 0 and chunk[:64].lstrip().lower().startswith(_MARKUP):
                raise DownloadError(f"{url}: the server sent a web page instead of the file")
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            progress.advance(task, len(chunk))
    if size == 0:
        raise DownloadError(f"{url}: the server sent an empty file")
    if expected is not None and size != expected:
        raise DownloadError(f"{url}: {size} of {expected} bytes came; the transfer broke off")
    return FileRecord(url, size, digest.hexdigest())


def _announced_length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    return int(length) if length.isdigit() else None


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _cause(error: requests.RequestException) -> str:
    """The cause in a few words, from the exceptions that the library nests."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", inner)
    text = str(inner.args[0] if isinstance(inner, Exception) and inner.args else inner)
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"the transfer broke off ({text})"
    return f"no connection ({text})" if isinstance(error, requests.ConnectionError) else text
