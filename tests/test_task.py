"""Prompts are checked where they are made, and slices of them stay together."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_lens.task import Prompts, Task, stack_sets

N, WIDTH = 5, 4
CLEAN = torch.arange(N * WIDTH).reshape(N, WIDTH)
LENGTHS = torch.tensor([1, 4, 2, 3, 4])


def prompts(**changes: Any) -> Prompts:
    values: dict[str, Any] = {
        "clean": CLEAN,
        "corrupted": CLEAN + 100,
        "answers": torch.arange(N),
        "distractors": torch.arange(N) + 50,
    }
    return Prompts(**(values | changes))


def tensors(some: Prompts) -> dict[str, list[Any] | None]:
    return {
        name: None if value is None else value.tolist()
        for name, value in vars(some).items()
        if isinstance(value, Tensor | None)
    }


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "no prompts": (
        {"clean": CLEAN[:0], "corrupted": CLEAN[:0], "answers": LENGTHS[:0], "distractors": None},
        r"at least one prompt, got clean of shape \(0, 4\)",
    ),
    "no tokens": (
        {"clean": CLEAN[:, :0], "corrupted": CLEAN[:, :0]},
        r"at least one prompt, got clean of shape \(5, 0\)",
    ),
    "corrupted prompts of another length": (
        {"corrupted": CLEAN[:, 1:]},
        r"must be aligned, got shapes \(5, 4\) and \(5, 3\)",
    ),
    "fewer corrupted prompts": ({"corrupted": CLEAN[1:]}, "must be aligned"),
    "too few answers": ({"answers": torch.arange(4)}, "answers has 4 rows for 5 prompts"),
    "too many distractors": (
        {"distractors": torch.arange(6)},
        "distractors has 6 rows for 5 prompts",
    ),
    "too few positions": ({"positions": torch.zeros(1).long()}, "positions has 1 rows"),
    "too few lengths": ({"lengths": torch.ones(2).long()}, "lengths has 2 rows"),
    "a length of zero": ({"lengths": LENGTHS - 1}, r"lengths must lie in 1..4, got 0..3"),
    "a length beyond the prompt": ({"lengths": LENGTHS + 1}, r"lengths must lie in 1..4, got 2..5"),
    "a position before the prompt": (
        {"positions": torch.tensor([-1, 0, 0, 0, 0])},
        r"positions must lie inside the prompts \(0..length-1\), got -1..0",
    ),
    "a position behind the prompt": (
        {"positions": torch.full((N,), WIDTH)},
        "positions must lie inside the prompts",
    ),
    "a position in the padding": (
        {"lengths": LENGTHS, "positions": torch.tensor([0, 3, 2, 2, 3])},
        "positions must lie inside the prompts",
    ),
    "a token that is right and wrong": (
        {"distractors": torch.tensor([9, 1, 9, 3, 9])},
        r"prompts \[1, 3\] have a token that is both answer and distractor",
    ),
    "the same among sets": (
        {
            "answers": torch.arange(2 * N).reshape(N, 2),
            "distractors": torch.tensor([[50, 51, 52]] * 4 + [[50, 51, 9]]),
        },
        r"prompts \[4\] have a token that is both",
    ),
    "lists in place of tensors": (
        {"clean": CLEAN.tolist()},
        r"clean must be a tensor of integers, \[n, pos\], got list",
    ),
    "one prompt without its row": (
        {"clean": CLEAN[0], "corrupted": CLEAN[0]},
        r"clean must be a tensor of integers, \[n, pos\], got one of torch.int64 and shape \(4,\)",
    ),
    "tokens that are no integers": (
        {"corrupted": CLEAN.float()},
        r"corrupted must be .* got one of torch.float32 and shape \(5, 4\)",
    ),
    "answers for each position": (
        {"answers": torch.zeros(N, WIDTH, 2).long()},
        r"answers must be a tensor of integers, \[n\] or \[n, k\], got one of",
    ),
    "no answers at all": ({"answers": None}, "answers must be .* got NoneType"),
    "padding that is no token": (
        {"clean": CLEAN.masked_fill(CLEAN == 7, -100)},
        r"clean has the token -100, and tokens are 0 or more; pad on the right .* lengths=",
    ),
    "an answer that is no token": (
        {"answers": torch.arange(N) - 1},
        "answers has the token -1, and tokens are 0 or more",
    ),
    "empty sets of answers": ({"answers": torch.zeros(N, 0).long()}, "answers must have at least"),
    "empty sets of distractors": (
        {"distractors": torch.zeros(N, 0).long()},
        "distractors must have at least one token",
    ),
}


@pytest.mark.parametrize(("changes", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_what_prompts_refuse(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompts(**changes)


def test_prompts_print_their_number_and_length_and_no_tokens() -> None:
    assert repr(prompts()) == "Prompts(5 pairs of 4 tokens)"
    assert repr(prompts(lengths=LENGTHS)) == "Prompts(5 pairs of at most 4 tokens)"
    assert repr(Task("mine", train=prompts())) == (
        "Task(name='mine', train=Prompts(5 pairs of 4 tokens), validation=None, held_out=None)"
    )


def test_answers_are_predicted_at_the_last_token() -> None:
    assert prompts().answer_positions.tolist() == [3] * N
    assert prompts(lengths=LENGTHS).answer_positions.tolist() == [0, 3, 1, 2, 3]


def test_given_positions_come_before_lengths() -> None:
    positions = torch.tensor([0, 1, 1, 0, 2])
    assert prompts(positions=positions).answer_positions.tolist() == positions.tolist()
    both = prompts(positions=positions, lengths=LENGTHS)
    assert both.answer_positions.tolist() == positions.tolist()


FULL = prompts(
    answers=torch.arange(2 * N).reshape(N, 2), positions=torch.zeros(N).long(), lengths=LENGTHS
)
INDICES: dict[str, slice | Tensor] = {
    "slice": slice(1, 4),
    "step": slice(None, None, 2),
    "rows": torch.tensor([4, 0, 0]),
    "mask": torch.tensor([2, 3]),
}


@pytest.mark.parametrize("some", [prompts(), prompts(distractors=None), FULL])
@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_slices_take_the_same_rows_of_everything(some: Prompts, index: slice | Tensor) -> None:
    rows = list(range(N))[index] if isinstance(index, slice) else index.tolist()
    expected = {
        name: None if value is None else [value[row] for row in rows]
        for name, value in tensors(some).items()
    }
    assert tensors(some[index]) == expected
    assert len(some[index]) == len(rows)


def test_an_empty_slice_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        prompts()[3:3]


@pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_batches_are_the_prompts_in_order(size: int, sizes: list[int]) -> None:
    batches = list(FULL.batches(size))
    assert [len(batch) for batch in batches] == sizes
    for name, value in tensors(FULL).items():
        parts = [row for batch in batches for row in tensors(batch)[name] or []]
        assert parts == (value or [])


@pytest.mark.parametrize("size", [0, -1])
def test_batches_of_nothing_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"at least one prompt, got size={size}"):
        next(prompts().batches(size))


def test_swapped_prompts() -> None:
    swapped = FULL.swapped
    assert swapped.clean.tolist() == FULL.corrupted.tolist()
    assert swapped.corrupted.tolist() == FULL.clean.tolist()
    assert swapped.distractors is FULL.answers
    assert swapped.answers is FULL.distractors
    assert (swapped.positions, swapped.lengths) == (FULL.positions, FULL.lengths)
    assert tensors(swapped.swapped) == tensors(FULL)


def test_all_other_tokens_cannot_be_swapped_with_an_answer() -> None:
    with pytest.raises(ValueError, match="'every other token' have no swap"):
        _ = prompts(distractors=None).swapped


def test_splits_by_name() -> None:
    train, validation, held_out = prompts(), FULL, prompts(distractors=None)
    task = Task("t", train, validation, held_out)
    assert task.split("train") is train
    assert task.split("validation") is validation
    assert task.split("held_out") is held_out


@pytest.mark.parametrize("split", ["validation", "held_out"])
def test_a_missing_split_is_named(split: str) -> None:
    with pytest.raises(ValueError, match=rf"'t' has no {split} split.*Task\(\.\.\., {split}="):
        Task("t", prompts()).split(split)


@pytest.mark.parametrize("split", ["test", "name", ""])
def test_there_are_no_other_splits(split: str) -> None:
    with pytest.raises(ValueError, match=f"no split '{split}'"):
        Task("t", prompts()).split(split)


def test_everything_moves_to_a_device() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    moved = Task("t", FULL, None, prompts(distractors=None)).to(device)
    assert (moved.name, moved.validation) == ("t", None)
    assert tensors(moved.train) == tensors(FULL)
    assert tensors(moved.split("held_out")) == tensors(prompts(distractors=None))
    for split in ("train", "held_out"):
        values = [v for v in vars(moved.split(split)).values() if isinstance(v, Tensor)]
        assert {value.device.type for value in values} == {device}


def test_sets_of_different_sizes_are_filled_up_with_their_own() -> None:
    assert stack_sets([[3], [5]]).tolist() == [3, 5]
    assert stack_sets([[3], [5, 6, 7], [8, 9]]).tolist() == [[3, 3, 3], [5, 6, 7], [8, 9, 8]]
