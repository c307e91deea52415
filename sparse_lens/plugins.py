"""Classes that installed packages offer by name, through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, TypeVar

Class = TypeVar("Class")


def installed_classes(group: str, base: type[Class]) -> dict[str, type[Class]]:
    """The classes of an entry-point group by their registered names, in alphabetical order.

    Args:
        group: such as `sparse_lens.methods`.
        base: what the classes are kinds of.

    Raises:
        ImportError: when one cannot be imported, naming the package that it comes from.
    """
    points = sorted(entry_points(group=group), key=lambda point: point.name)
    return {point.name: _load(point, base.__name__.lower()) for point in points}


def _load(point: Any, noun: str) -> Any:
    """The class that an entry point names. Where the backport of importlib.metadata is installed,
    that is an entry point of the backport."""
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = "an unknown package" if point.dist is None else point.dist.name
        raise ImportError(
            f"the {noun} {point.name!r} of {package} cannot be imported from {point.value}: "
            f"{error}. Mend or uninstall that package."
        ) from error
