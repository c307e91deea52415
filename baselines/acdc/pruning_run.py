"""What one run of ACDC decides by, and what it comes to."""

from collections.abc import Mapping
from dataclasses import dataclass

from sparse_lens.circuit import Circuit

Edge = tuple[str, int, int]
"""Block, row (destination) and column (source)."""


@dataclass(frozen=True)
class Rule:
    """An edge goes when its removal changes the objective by less than the threshold."""

    threshold: float

    absolute: bool
    """Compare the absolute change: edges whose removal helps stay, too."""

    def removes(self, change: float) -> bool:
        """Whether an edge goes whose removal changes the objective so much."""
        return (abs(change) if self.absolute else change) < self.threshold

    def margin(self, change: float) -> float:
        """How far the decision was from the other one."""
        return abs((abs(change) if self.absolute else change) - self.threshold)


@dataclass(frozen=True, eq=False)
class Run:
    """The circuit of one threshold."""

    rule: Rule
    circuit: Circuit

    loss: float
    """Mean objective of the circuit on the prompts that it was found on."""

    changes: Mapping[Edge, float]
    """How the objective changed when an edge was removed, of those tested. Edges into nodes that
    did not act on the output any more were not."""

    margin: float
    """Smallest distance of a decision from the threshold: if it is within float error, another
    order of summation may come to another circuit."""

    n_passes: int
    """Forward passes of a batch with an edge removed, or with several in turn."""
