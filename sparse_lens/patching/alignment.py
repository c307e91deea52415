"""Where ablated values belong: pooled over positions, one a position, or one a token."""

import torch
from torch import Tensor


def aligned(
    values: Tensor, name: str, *, leading: int, batch: int, pos: int, offset: int = 0
) -> Tensor:
    """The part of ablated values that is for a run on `[batch, pos]` tokens, with both these axes.

    Between `leading` axes and the channels, `values` has no axis (pooled means), `[positions]`
    (means per position: as many as there are or more) or `[batch, positions]` (values on tokens
    that are aligned with those of the run; one row serves all).

    Args:
        name: of the site, for the message.
        offset: positions of the run that came before and lie in a key-value cache.

    Raises:
        ValueError: when they belong to other tokens.
    """
    n_axes = values.ndim - 1 - leading
    if n_axes == 0:
        return values.unsqueeze(leading).unsqueeze(leading)
    shape = tuple(values.shape[leading:-1])
    if n_axes == 1:
        values = values.unsqueeze(leading)
        misfit = shape[0] < offset + pos
    else:
        same_tokens = offset or shape[1] == pos
        misfit = shape[1] < offset + pos or shape[0] not in (1, batch) or not same_tokens
    if misfit:
        run = f"{batch} x {pos} tokens" + (f" after {offset} cached ones" if offset else "")
        given = f"{shape[0]} positions" if n_axes == 1 else f"{shape[0]} x {shape[1]} tokens"
        raise ValueError(
            f"the ablated values of {name} are for {given}, the circuit runs on {run}; pass the "
            "ablation tokens (or means) that are aligned with those of the run, row by row."
        )
    return values.narrow(leading + 1, offset, pos)


def like(values: Tensor, live: Tensor) -> Tensor:
    """On the device and in the dtype of live values."""
    return values.to(device=live.device, dtype=live.dtype)


@torch.no_grad()
def differences(ablated: Tensor | None, live: Tensor, *, out: Tensor) -> None:
    """`out = ablated - live`, where None stands for zero."""
    if ablated is None:
        torch.neg(live, out=out)
    else:
        torch.sub(like(ablated, live), live, out=out)
