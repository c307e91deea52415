"""Which questions a comparison asks of the circuits that it chose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sparse_lens.identity import describe_fields

DISPENSABLE_BELOW = 0.01
"""Nats: a node whose removal raises the task loss by less does not hurt."""

QUESTIONS = MappingProxyType(
    {
        "resample": "resample_draws",
        "frozen-norms": "frozen_norms",
        "subsets": "subset_draws",
        "minimality": "minimality_nodes",
        "completeness": "completeness_draws",
    }
)
"""The field that says how often, by the question's name."""


_ON_DEMAND = MappingProxyType({"completeness_draws": 8})
"""How often what is not asked by default is asked where only its name is given."""


@dataclass(frozen=True)
class Questions:
    """What is asked of each chosen circuit besides its metrics; 0 or False leaves a question out.

    Completeness is asked on demand: each draw runs the circuit and the model anew.

    Raises:
        ValueError: for a negative number, or a share outside (0, 1].
    """

    resample_draws: int = 2
    """Times that absent nodes and edges carry their values on another, randomly drawn prompt."""

    frozen_norms: bool = True
    """Once with the scales of norms as in the full model, where there are norms."""

    subset_draws: int = 8
    """Random subsets of what the circuit leaves out that are ablated, each alone."""

    subset_share: float = 0.5
    """Probability with which an absent node or edge is in such a subset."""

    minimality_nodes: int = 32
    """Nodes of the circuit that are removed, each alone; drawn at random where it has more."""

    dispensable_below: float = DISPENSABLE_BELOW
    """Nats: a node whose removal raises the task loss by less does not hurt."""

    completeness_draws: int = 0
    """Random subsets of the circuit's nodes that are removed from circuit and model alike."""

    completeness_share: float = 0.5
    """Probability with which a node of the circuit is in such a subset."""

    def __post_init__(self) -> None:
        for name in ("resample_draws", "subset_draws", "minimality_nodes", "completeness_draws"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} is a number of runs, 0 for none; got {getattr(self, name)}."
                )
        for name in ("subset_share", "completeness_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}.")

    @property
    def any(self) -> bool:
        """Whether anything is asked."""
        return any(getattr(self, field) for field in QUESTIONS.values())

    @property
    def identity(self) -> dict[str, Any]:
        """Every field that the answers depend on.

        Those of completeness only where it is asked: records from before it could be asked count.
        """
        fields = describe_fields(self)
        if not self.completeness_draws:
            del fields["completeness_draws"], fields["completeness_share"]
        return fields

    @classmethod
    def none(cls) -> Questions:
        """Nothing is asked."""
        return cls().only(())

    def only(self, names: Iterable[str]) -> Questions:
        """These questions alone, by their names in `QUESTIONS`.

        One that is left out here is asked as often as by default, completeness with 8 draws.

        Raises:
            ValueError: for a question of another name.
        """
        names = tuple(names)
        unknown = [name for name in names if name not in QUESTIONS]
        if unknown:
            raise ValueError(f"no question {unknown[0]!r}; there are {', '.join(QUESTIONS)}.")
        default = replace(Questions(), **_ON_DEMAND)
        changes = {
            field: (getattr(self, field) or getattr(default, field))
            if name in names
            else type(getattr(self, field))(0)
            for name, field in QUESTIONS.items()
        }
        return replace(self, **changes)
