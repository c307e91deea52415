"""The ablated values that belong to the tokens of a run, and their differences to live values."""

import torch
from torch import Tensor


def aligned(
    values: Tensor, name: str, *, leading: int, batch: int, pos: int, offset: int = 0
) -> Tensor:
    """The ablated values for a run on `[batch, pos]` tokens, broadcastable over both these axes.

    Args:
        values: between its `leading` axes and the channels it has no axis (means over all
            positions), `[positions]` (means per position, for as many as the run has or more), or
            `[batch, positions]` (values on tokens that are aligned with those of the run; with a
            batch of one they are used for all rows).
        name: of the site, for the message.
        offset: number of earlier positions, which are in the key-value cache.

    Raises:
        ValueError: when the values are for other tokens.
    """
    n_axes = values.ndim - 1 - leading
    if n_axes == 0:
        return values.unsqueeze(leading).unsqueeze(leading)
    shape = tuple(values.shape[leading:-1])  # [positions] or [batch, positions]
    if n_axes == 1:
        values = values.unsqueeze(leading)
        fits = shape[0] >= offset + pos
    else:
        # While tokens are generated, the values are those of the whole text, cached part included.
        fits_positions = shape[1] >= offset + pos if offset else shape[1] == pos
        fits = fits_positions and shape[0] in (1, batch)
    if not fits:
        run = f"{batch} x {pos} tokens" + (f" after {offset} cached ones" if offset else "")
        given = f"{shape[0]} positions" if n_axes == 1 else f"{shape[0]} x {shape[1]} tokens"
        raise ValueError(
            f"the ablated values of {name} are for {given}, the circuit runs on {run}; pass the "
            "ablation tokens (or means) that are aligned with those of the run, row by row."
        )
    return values.narrow(leading + 1, offset, pos)


def like(values: Tensor, live: Tensor) -> Tensor:
    """Values on the device and in the dtype of live values."""
    return values.to(device=live.device, dtype=live.dtype)


@torch.no_grad()
def differences(ablated: Tensor | None, live: Tensor, *, out: Tensor) -> None:
    """`out = ablated - live`, where None stands for zero."""
    if ablated is None:
        torch.neg(live, out=out)
    else:
        torch.sub(like(ablated, live), live, out=out)
