"""Values that are computed when they are asked for, and kept as long as what they stand on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Lazy:
    """A tensor that is computed on first use."""

    def __init__(self, compute: Callable[[], Tensor]) -> None:
        self._compute: Callable[[], Tensor] | None = compute
        self._value: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The tensor."""
        if self._value is None:
            assert self._compute is not None
            self._value = self._compute()
            self._compute = None  # lets go of what it was computed from
        return self._value


@dataclass(frozen=True, eq=False)
class _Step:
    inputs: tuple[Lazy, ...]
    masks: tuple[Tensor, ...]
    output: Lazy


class Steps:
    """The steps of one computation, which shares with an earlier one all that did not change.

    A step is shared when its inputs are the very ones of the earlier computation and its masks are
    equal. What nobody asks for is never computed.

    Args:
        base: the earlier computation.
    """

    def __init__(self, base: Steps | None = None) -> None:
        self._earlier = {} if base is None else base._steps
        self._steps: dict[str, _Step] = {}

    def finish(self) -> None:
        """Let go of the earlier computation: there are no more steps."""
        self._earlier = {}

    def add(
        self,
        name: str,
        compute: Callable[[], Tensor],
        *,
        inputs: Sequence[Lazy] = (),
        masks: Sequence[Tensor] = (),
    ) -> Lazy:
        """One more step; `compute` depends on nothing that changes but the inputs and the masks."""
        earlier = self._earlier.get(name)
        if earlier is None or not _same(earlier, inputs, masks):
            earlier = _Step(tuple(inputs), tuple(masks), Lazy(compute))
        self._steps[name] = earlier
        return earlier.output


def _same(step: _Step, inputs: Sequence[Lazy], masks: Sequence[Tensor]) -> bool:
    return (
        len(step.inputs) == len(inputs)
        and len(step.masks) == len(masks)
        and all(old is new for old, new in zip(step.inputs, inputs, strict=True))
        and all(torch.equal(old, new) for old, new in zip(step.masks, masks, strict=True))
    )
