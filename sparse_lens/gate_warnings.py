"""What the gates at the end of a run say of it: whether it collapsed, or was not finished."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

COLLAPSED = 2.0
"""Of a collapsed run the open gates alone have more than this many times the target loss."""

UNDECIDED = 0.2
"""A gate whose parameter is closer to zero than this, in -1..1, is neither closed nor open."""


def gate_warnings(
    tau: Float[Tensor, " nodes"], loss: float, *, target_loss: float, label: str
) -> tuple[str, ...]:
    """Sentences on what is wrong with learned gates; none when nothing is.

    Args:
        tau: parameters of the gates that were learned, which are open at 0 and above.
        loss: of the circuit of open gates on the train prompts, to compare with `target_loss`.
        label: says of which run.
    """
    warnings = []
    if loss > COLLAPSED * target_loss:
        warnings.append(
            f"{label}: the run collapsed. The gates that it left open have a loss of {loss:.3g} on "
            f"the train prompts, far above the target of {target_loss:g}, and its ranking means "
            "little: lower k_coef."
        )
    undecided = int((tau.abs() < UNDECIDED).count_nonzero())
    n_open = int((tau >= UNDECIDED).count_nonzero())
    if undecided > n_open:
        warnings.append(
            f"{label}: the run is unfinished. {undecided} gates are neither closed nor open, more "
            f"than the {n_open} that are open: take more steps, or a higher learning rate."
        )
    return tuple(warnings)
