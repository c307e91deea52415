"""Activations of a circuit's nodes on example prompts, as plain values that a page can show."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

LEVELS = 99
"""Activations for the page are rounded to whole numbers from -LEVELS to LEVELS."""


@dataclass(frozen=True)
class Profile:
    """The activations of one node."""

    name: str

    means: tuple[float, ...]
    """By class of prompts: the mean activation at the position that predicts the answer."""

    top_tokens: tuple[str, ...]
    """The tokens with the activations farthest from their mean, the farthest first."""

    largest: float
    """The largest absolute activation on the prompts that are shown."""

    activations: tuple[tuple[int, ...], ...]
    """By prompt and token, in units of `largest / LEVELS`."""

    effect: float | None = None
    """Rise of the two-way loss, in nats, when only this node is removed from the circuit."""


@dataclass(frozen=True)
class Profiles:
    """The activations of several nodes on prompts of several classes."""

    unit: str
    """What an activation is: the value of a channel, or the norm of an output."""

    classes: tuple[str, ...]
    """The answer of each class of prompts, as text."""

    prompts: tuple[tuple[str, ...], ...]
    """The prompts that are shown, as the text of their tokens."""

    prompt_classes: tuple[int, ...]
    """By prompt: the index of its class in `classes`."""

    nodes: tuple[Profile, ...]

    def to_dict(self) -> dict[str, Any]:
        """The profiles as values for JSON, which `from_dict` reads."""
        nodes = {f.name: [getattr(node, f.name) for node in self.nodes] for f in fields(Profile)}
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "nodes": nodes}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Profiles:
        """The profiles that `to_dict` gave."""
        shared = {name: _as_tuples(value) for name, value in values.items() if name != "nodes"}
        by_field = [_as_tuples(column) for column in values["nodes"].values()]
        return cls(**shared, nodes=tuple(map(Profile, *by_field)))


def _as_tuples(value: Any) -> Any:
    """Lists as tuples, at every depth."""
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value
