"""A run of ACDC at one threshold: the rule for removing an edge, and the result."""

from collections.abc import Mapping
from dataclasses import dataclass

from sparse_lens.circuit import Circuit

Edge = tuple[str, int, int]
"""Block, row (destination) and column (source)."""


@dataclass(frozen=True)
class Rule:
    """An edge is removed when that changes the objective by less than the threshold."""

    threshold: float

    absolute: bool
    """Compare the absolute change: edges whose removal lowers the objective are kept."""

    def removes(self, change: float) -> bool:
        """Whether an edge is removed, given the change of the objective by its removal."""
        return (abs(change) if self.absolute else change) < self.threshold

    def margin(self, change: float) -> float:
        """The distance of the change from the threshold, where the decision would be the other."""
        return abs((abs(change) if self.absolute else change) - self.threshold)


@dataclass(frozen=True, eq=False)
class Run:
    """The circuit that one threshold gives."""

    rule: Rule
    circuit: Circuit

    loss: float
    """Mean objective of the circuit on the prompts that it was found on."""

    changes: Mapping[Edge, float]
    """By tested edge: the change of the objective by its removal. Edges into nodes that no longer
    acted on the output were not tested."""

    margin: float
    """Smallest distance of a change from the threshold: if it is within float error, another order
    of summation can give another circuit."""

    n_passes: int
    """Forward passes, in each of which the removal of one or several edges was tested."""
