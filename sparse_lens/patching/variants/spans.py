"""Places that are next to each other, which can be taken without a copy."""

from collections.abc import Sequence


def span(places: Sequence[int]) -> slice | list[int]:
    """Ascending places as a slice where that is the same."""
    if not places:
        return slice(0)
    first, last = places[0], places[-1] + 1
    return slice(first, last) if last - first == len(places) else list(places)
