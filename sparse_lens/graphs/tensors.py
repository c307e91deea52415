"""Tensors by name: immutable ones, and checks of their shapes against a graph."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sparse_lens.graphs.base import did_you_mean


class FrozenTensors(Mapping[str, Tensor]):
    """Tensors by name that cannot be changed from outside, since they are copied in and out."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"FrozenTensors({', '.join(self._tensors)})"


def check_shapes(
    what: str,
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    complete: bool = True,
) -> None:
    """Check that there is one tensor of the right shape for every name.

    Args:
        what: `site` or `block`, for the messages.
        complete: whether every name needs a tensor.

    Raises:
        ValueError: for an unknown or missing name, or a tensor of another shape.
    """
    unknown = [name for name in tensors if name not in shapes]
    if unknown:
        hint = did_you_mean(unknown[0], list(shapes))
        raise ValueError(f"the graph has no {what} {unknown[0]!r}.{hint}")
    missing = [name for name in shapes if name not in tensors]
    if missing and complete:
        raise ValueError(
            f"{len(missing)} of {len(shapes)} {what}s are missing: "
            f"{', '.join(missing[:4])}{', ...' * (len(missing) > 4)}; give one tensor for each."
        )
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"{what} {name!r} needs a tensor of shape {shapes[name]}, "
                f"got {tuple(tensor.shape)}."
            )


def check_masks(
    what: str, masks: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """As `check_shapes`, and check that the masks are bool."""
    check_shapes(what, masks, shapes)
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise ValueError(
                f"the mask of {what} {name!r} must be bool, got {mask.dtype}; compare with a "
                "threshold first."
            )
