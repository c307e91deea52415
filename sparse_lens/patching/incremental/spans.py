"""Indices that follow each other, which can be taken without a copy."""

from collections.abc import Sequence

Indices = slice | list[int]


def span(indices: Sequence[int]) -> Indices:
    """Ascending indices as a slice where that is the same."""
    if not indices:
        return slice(0)
    first, last = indices[0], indices[-1] + 1
    return slice(first, last) if last - first == len(indices) else list(indices)
