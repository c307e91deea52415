"""What the nodes of a circuit do on some prompts, as plain values that a page can show."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

LEVELS = 99
"""Activations for the page are whole numbers between minus this and this."""


@dataclass(frozen=True)
class Profile:
    """One node."""

    name: str

    means: tuple[float, ...]
    """By class of prompts: the mean activation where the answer is predicted."""

    top_tokens: tuple[str, ...]
    """On which it was farthest from its mean, the farthest first."""

    largest: float
    """The largest size of an activation on the prompts that are shown."""

    activations: tuple[tuple[int, ...], ...]
    """By prompt and token, in units of `largest / LEVELS`."""

    effect: float | None = None
    """Rise of the two-way loss, in nats, when it alone is taken out of the circuit."""


@dataclass(frozen=True)
class Profiles:
    """All nodes that were looked at, on prompts of some classes."""

    unit: str
    """What an activation is: the value of a channel, or the norm of an output."""

    classes: tuple[str, ...]
    """What is to be answered, as text."""

    prompts: tuple[tuple[str, ...], ...]
    """The prompts that are shown, as the text of their tokens."""

    prompt_classes: tuple[int, ...]
    """By prompt: the number of its class."""

    nodes: tuple[Profile, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON, which `from_dict` reads."""
        nodes = {f.name: [getattr(node, f.name) for node in self.nodes] for f in fields(Profile)}
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "nodes": nodes}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Profiles:
        """Read what `to_dict` gave."""
        found = {name: _frozen(value) for name, value in values.items() if name != "nodes"}
        columns = [_frozen(column) for column in values["nodes"].values()]
        return cls(**found, nodes=tuple(map(Profile, *columns)))


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
