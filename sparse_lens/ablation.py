"""What an absent node or edge carries: the ablations that there are, and how to write one.

The two base classes are :class:`Ablation`, a specification, and :class:`BoundAblation`, what it
becomes when it meets a model; see `sparse_lens.patching.ablations`.
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

_OURS: Mapping[str, type[Ablation]] = {
    "mean": MeanAblation,
    "zero": ZeroAblation,
    "interchange": InterchangeAblation,
    "resample": ResampleAblation,
}


def registry() -> dict[str, type[Ablation]]:
    """Ablations by the names that the command line knows, ours and those of other packages.

    A package adds one through an entry point in the group `sparse_lens.ablations`.

    Raises:
        ImportError: when one cannot be imported, naming the package that it comes from.
        ValueError: when one is no ablation, or has the name of one of ours.
    """
    theirs = load_entry_points(ENTRY_POINT_GROUP, Ablation)
    twins = sorted(set(theirs) & set(_OURS))
    if twins:
        raise ValueError(
            f"the entry points {twins} in {ENTRY_POINT_GROUP!r} have names of ablations of "
            "sparse-lens: rename them in the package that they come from."
        )
    return {**_OURS, **theirs}
