"""Names of models, and the local folders that they stand for.

A name is that of a model embedded in this package, or of a checkpoint released with Gao et al.
2025 (2511.13653), which is fetched into a cache on first use.
"""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from sparse_lens.models import download_cache
from sparse_lens.models.released import ReleasedModel, released_models

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"

RANDOM = "random:"
"""Before a name or a folder it stands for that model with its weights at random; see
`random_weights`."""

Status = Literal["embedded", "cached", "available", "unavailable"]


@dataclass(frozen=True)
class ModelEntry:
    """A model in the list of models."""

    name: str

    status: Status
    """In the package, in the cache, to be fetched, or released with broken files."""

    size: int | None
    """Bytes on disk; None for a model that is not on disk."""

    description: str

    path: Path
    """The model's folder, which does not exist for a released model that is not cached."""


def resolve(
    name_or_path: str | Path,
    *,
    base_url: str | None = None,
    cache: str | Path | None = None,
    embedded: Path = EMBEDDED_FOLDER,
) -> Path:
    """The local folder of a model, fetched first if it is a released one that is not cached.

    An existing folder stands for itself, and `random:` before either changes nothing here.
    `base_url` overrides where released files come from (else `SPARSE_LENS_BASE_URL`, else OpenAI's
    store), `cache` where they are kept (else `SPARSE_LENS_CACHE`, else the platform's cache
    folder).

    Raises:
        ValueError: when there is no such folder or name, or its files are broken.
        DownloadError: a ConnectionError, when a file cannot be fetched; says what to put where
            by hand.
    """
    name = str(name_or_path).removeprefix(RANDOM)
    if name and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    folder = locate(name, cache=cache, embedded=embedded)
    model = released_models().get(name)
    if model is None:
        return folder
    base_url = download_cache.base_address(base_url)
    if model.broken is not None and not download_cache.is_complete(folder):
        raise ValueError(
            f"{name} cannot be fetched: {model.broken}. Choose another model (`sparse-lens "
            f"models` lists them), or put a sound copy of "
            f"{', '.join(model.urls(base_url))} into {folder}."
        )
    download_cache.fetch(model, folder, base_url=base_url)
    return folder


def locate(name: str, *, cache: str | Path | None = None, embedded: Path = EMBEDDED_FOLDER) -> Path:
    """The folder of a model, which need not exist yet; fetches nothing.

    Raises:
        ValueError: when no model has that name; suggests similar names.
    """
    if name in _embedded_names(embedded):
        return embedded / name
    released = released_models()
    if name in released:
        return download_cache.cache_folder(cache) / name
    if Path(name).is_file():
        raise ValueError(f"{name!r} is a file; pass the folder that holds it.")
    known = [*_embedded_names(embedded), *released]
    close = get_close_matches(name, known, n=3)
    suggestion = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(
        f"no model {name!r}: there is neither a folder nor a model of that name.{suggestion} "
        "`sparse-lens models` lists the names."
    )


def list_models(
    *, cache: str | Path | None = None, embedded: Path = EMBEDDED_FOLDER
) -> list[ModelEntry]:
    """Every model that has a name: embedded ones first, then released ones."""
    entries = [
        ModelEntry(path.name, "embedded", _size(path), _description(path), path)
        for path in (embedded / name for name in _embedded_names(embedded))
    ]
    folder = download_cache.cache_folder(cache)
    return entries + [_entry(model, folder / name) for name, model in released_models().items()]


def clear_cache(
    name: str | None = None, *, cache: str | Path | None = None
) -> tuple[ModelEntry, ...]:
    """Delete one released model from the cache, or all; returns what was deleted with its size.

    Half-fetched models are deleted too. Files that the library did not put there stay.

    Raises:
        ValueError: when the name is not that of a released model.
    """
    models = list(released_models().values()) if name is None else [_released(name)]
    cleared = []
    for model in models:
        folder = download_cache.cache_folder(cache) / model.name
        freed = download_cache.remove(folder)
        if freed:
            cleared.append(ModelEntry(model.name, "cached", freed, model.description, folder))
    return tuple(cleared)


def verify(
    name: str | None = None, *, cache: str | Path | None = None
) -> dict[str, tuple[str, ...]]:
    """The problems with each cached model, or with one, by name; empty for a sound model.

    Reads every file and compares it with the digest recorded when it was fetched.

    Raises:
        ValueError: when the name is not that of a released model.
    """
    if name is None:
        names = [entry.name for entry in list_models(cache=cache) if entry.status == "cached"]
    else:
        names = [_released(name).name]
    folder = download_cache.cache_folder(cache)
    return {name: tuple(download_cache.problems(folder / name)) for name in names}


def _released(name: str) -> ReleasedModel:
    model = released_models().get(name)
    if model is None:
        locate(name)  # raises with suggestions unless the model is embedded
        raise ValueError(f"{name} is embedded in the package; only fetched models are cached.")
    return model


def _entry(model: ReleasedModel, folder: Path) -> ModelEntry:
    if download_cache.is_complete(folder):
        return ModelEntry(model.name, "cached", _size(folder), model.description, folder)
    if model.broken is not None:
        description = f"{model.description}; {model.broken}"
        return ModelEntry(model.name, "unavailable", None, description, folder)
    return ModelEntry(model.name, "available", None, model.description, folder)


def _embedded_names(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(path.parent.name for path in root.glob("*/config.json"))


def _description(folder: Path) -> str:
    """The `description` in an embedded model's training log, if it has one."""
    try:
        log = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return ""
    description = log.get("description", "") if isinstance(log, dict) else ""
    return description if isinstance(description, str) else ""


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
