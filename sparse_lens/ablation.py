"""Ablations: what absent nodes and edges carry.

To write a new one, subclass :class:`Ablation`, the specification, and :class:`BoundAblation`, its
values in a model; see `sparse_lens.patching.ablations.binding`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sparse_lens.patching.ablations.binding import Ablation, BoundAblation
from sparse_lens.patching.ablations.constants import BoundConstants, MeanAblation, ZeroAblation
from sparse_lens.patching.ablations.interchange import BoundInterchange, InterchangeAblation
from sparse_lens.patching.ablations.resample import ResampleAblation, draw_other_prompts
from sparse_lens.plugins import load_entry_points

__all__ = [
    "Ablation",
    "BoundAblation",
    "BoundConstants",
    "BoundInterchange",
    "InterchangeAblation",
    "MeanAblation",
    "ResampleAblation",
    "ZeroAblation",
    "draw_other_prompts",
    "registry",
]

ENTRY_POINT_GROUP = "sparse_lens.ablations"

_BUILT_IN: Mapping[str, type[Ablation]] = {
    "mean": MeanAblation,
    "zero": ZeroAblation,
    "interchange": InterchangeAblation,
    "resample": ResampleAblation,
}


def registry() -> dict[str, type[Ablation]]:
    """Ablations by their names on the command line: built-in ones and those of other packages.

    A package adds one through an entry point in the group `sparse_lens.ablations`.

    Raises:
        ImportError: when one cannot be imported, naming its package.
        ValueError: when one is not an ablation, or has the name of a built-in one.
    """
    plugins = load_entry_points(ENTRY_POINT_GROUP, Ablation)
    name_clashes = sorted(set(plugins) & set(_BUILT_IN))
    if name_clashes:
        raise ValueError(
            f"the entry points {name_clashes} in {ENTRY_POINT_GROUP!r} have names of ablations of "
            "sparse-lens: rename them in the package that they come from."
        )
    return {**_BUILT_IN, **plugins}
