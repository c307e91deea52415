"""Ways to score without solving a task: a constant answer, and prompts seen in training."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sparse_lens.task import Prompts

_HASH_BASE = 6364136223846793005
"""Any odd number with well mixed bits will do, as matches are compared token by token."""


def constant_answer_accuracy(prompts: Prompts) -> float:
    """Best accuracy that a rule reaches which sees the two candidates, but not the prompt.

    It gives prompts with the same two candidates the same answer: the one that is right more
    often. It is one half where both members of each pair serve as the clean prompt.

    Raises:
        ValueError: when the distractors are 'every other token'.
    """
    if prompts.distractors is None:
        raise ValueError("a constant answer needs two candidates; these prompts have one.")
    # By pair of candidates, how often each of them is the answer.
    counts: dict[tuple, list[int]] = {}
    for answer, distractor in zip(_sets(prompts.answers), _sets(prompts.distractors), strict=True):
        candidates = tuple(sorted((answer, distractor)))
        counts.setdefault(candidates, [0, 0])[candidates.index(answer)] += 1
    return sum(map(max, counts.values())) / len(prompts)


def _sets(tokens: Tensor) -> list[tuple[int, ...]]:
    """By prompt its set of tokens, without order and repetitions."""
    return [tuple(sorted(set(row))) for row in tokens.reshape(len(tokens), -1).tolist()]


def shared_suffixes(
    prompts: Prompts, tokens: Int[Tensor, " stream"], *, length: int = 12
) -> Int[Tensor, " m"]:
    """Indices of the prompts whose last tokens occur in a training text.

    Args:
        tokens: the training text as one stream.
        length: how many tokens are compared, of which the last predicts the answer.

    Raises:
        ValueError: when a prompt is shorter than `length`.
    """
    ends = prompts.answer_positions + 1
    if int(ends.min()) < length:
        raise ValueError(
            f"the shortest prompt has {int(ends.min())} tokens, fewer than length={length}; "
            "pass a smaller length."
        )
    columns = (ends - length)[:, None] + torch.arange(length, device=ends.device)
    suffixes = prompts.clean.gather(1, columns).cpu().numpy().astype(np.uint64)  # [n, length]
    stream = tokens.cpu().numpy().astype(np.uint64)
    if len(stream) < length:
        return torch.zeros(0, dtype=torch.long)
    windows = np.lib.stride_tricks.sliding_window_view(stream, length)  # [positions, length]
    window_hashes = _hash_rows(windows)
    # Sorting the few suffixes is faster than np.isin, which sorts the many windows.
    suffix_hashes = np.sort(_hash_rows(suffixes))
    nearest = np.minimum(np.searchsorted(suffix_hashes, window_hashes), len(suffix_hashes) - 1)
    matches = np.flatnonzero(suffix_hashes[nearest] == window_hashes)
    seen = {windows[position].tobytes() for position in matches}
    indices = [i for i, suffix in enumerate(suffixes) if suffix.tobytes() in seen]
    return torch.tensor(indices, dtype=torch.long)


def _hash_rows(rows: np.ndarray) -> np.ndarray:
    """Polynomial hash of each row, modulo 2**64, one column at a time."""
    hashes = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):
        hashes *= np.uint64(_HASH_BASE)
        hashes += rows[:, column]
    return hashes
