"""Classes that installed packages provide through entry points."""

from __future__ import annotations

import itertools
from importlib.metadata import entry_points
from typing import Any, TypeVar

Base = TypeVar("Base")


def load_entry_points(group: str, base_class: type[Base]) -> dict[str, type[Base]]:
    """The classes of a group of entry points, of all installed packages, sorted by name.

    Args:
        group: such as `sparse_lens.methods`.
        base_class: what each of them must be a subclass of.

    Raises:
        ImportError: when one cannot be imported, naming its package.
        ValueError: when one is not a subclass of `base_class`, naming its package, or when two
            have the same name, naming both packages.
    """
    points = sorted(entry_points(group=group), key=lambda point: point.name)
    for point, following in itertools.pairwise(points):
        if point.name == following.name:
            raise ValueError(
                f"two classes have the same name: {_name(point)} and {_name(following)}. Rename "
                "one, or uninstall one of the packages."
            )
    return {point.name: _load(point, base_class) for point in points}


def _load(point: Any, base_class: type[Base]) -> type[Base]:
    """The class that an entry point names.

    The entry point is untyped, since it is not an `importlib.metadata.EntryPoint` if the backport
    of importlib.metadata is installed.
    """
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"{_name(point)} cannot be imported: {error}. Mend or uninstall that package."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, base_class)):
        raise ValueError(
            f"{_name(point)} is {loaded!r}, not a subclass of {base_class.__module__}."
            f"{base_class.__qualname__}. Mend or uninstall that package."
        )
    return loaded


def _name(point: Any) -> str:
    package = "an unknown package" if point.dist is None else point.dist.name
    return f"{point.name!r} of {package} ({point.value}, an entry point in {point.group!r})"
