"""What scores without understanding: a constant answer, and prompts seen in training."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sparse_lens.task import Prompts

_HASH_BASE = 6364136223846793005
"""Any odd number with well mixed bits: collisions are looked at token by token."""


def constant_answer_accuracy(prompts: Prompts) -> float:
    """Best accuracy reachable by looking at the two candidates and never at the prompt.

    Prompts that offer the same two candidates get the same answer, whichever of them is right
    more often. Both members of every pair as the clean one make it one half.

    Raises:
        ValueError: when the distractors are 'every other token'.
    """
    if prompts.distractors is None:
        raise ValueError("a constant answer needs two candidates; these prompts have one.")
    tallies: dict[tuple, list[int]] = {}
    for answer, distractor in zip(_sets(prompts.answers), _sets(prompts.distractors), strict=True):
        candidates = tuple(sorted((answer, distractor)))
        tallies.setdefault(candidates, [0, 0])[candidates.index(answer)] += 1
    return sum(max(tally) for tally in tallies.values()) / len(prompts)


def _sets(tokens: Tensor) -> list[tuple[int, ...]]:
    return [tuple(sorted(set(row))) for row in tokens.reshape(len(tokens), -1).tolist()]


def shared_suffixes(
    prompts: Prompts, tokens: Int[Tensor, " stream"], *, length: int = 12
) -> Int[Tensor, " m"]:
    """Rows of the prompts whose last tokens occur somewhere in a stream of tokens.

    Args:
        tokens: text a model was trained on, end to end.
        length: tokens up to and with the one that predicts the answer.

    Raises:
        ValueError: when a prompt is shorter than that.
    """
    ends = prompts.answer_positions + 1
    if int(ends.min()) < length:
        raise ValueError(
            f"the shortest prompt has {int(ends.min())} tokens, fewer than length={length}; "
            "pass a smaller length."
        )
    columns = (ends - length)[:, None] + torch.arange(length, device=ends.device)
    suffixes = prompts.clean.gather(1, columns).cpu().numpy().astype(np.uint64)
    stream = tokens.cpu().numpy().astype(np.uint64)
    if len(stream) < length:
        return torch.zeros(0, dtype=torch.long)
    windows = np.lib.stride_tricks.sliding_window_view(stream, length)
    hashes = _hash_windows(windows)
    wanted = _hash_windows(suffixes)
    # Few are wanted in many: quicker than np.isin, which sorts the many.
    wanted.sort()
    nearest = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    hits = np.flatnonzero(wanted[nearest] == hashes)
    seen = {windows[hit].tobytes() for hit in hits}
    rows = [row for row, suffix in enumerate(suffixes) if suffix.tobytes() in seen]
    return torch.tensor(rows, dtype=torch.long)


def _hash_windows(windows: np.ndarray) -> np.ndarray:
    """Polynomial hash of each row, modulo 2**64, one column at a time."""
    hashes = np.zeros(len(windows), dtype=np.uint64)
    for column in range(windows.shape[1]):
        hashes *= np.uint64(_HASH_BASE)
        hashes += windows[:, column]
    return hashes
