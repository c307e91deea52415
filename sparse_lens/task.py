"""Tasks: prompts with answers, in three splits."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "held_out")
"""Names of the splits of a task."""

TokenSet = Int[Tensor, " n"] | Int[Tensor, "n _"]


def stack_sets(sets: Sequence[Sequence[int]]) -> TokenSet:
    """Sets of tokens as one tensor: `[n]` when each has one token, else `[n, k]`.

    Smaller sets repeat their first token, which does not change the set.
    """
    width = max(len(tokens) for tokens in sets)
    if width == 1:
        return torch.tensor([tokens[0] for tokens in sets])
    return torch.tensor([[*tokens, *([tokens[0]] * (width - len(tokens)))] for tokens in sets])


_SHAPES = {
    "clean": ("[n, pos]",),
    "corrupted": ("[n, pos]",),
    "answers": ("[n]", "[n, k]"),
    "distractors": ("[n]", "[n, k]"),
    "positions": ("[n]",),
    "lengths": ("[n]",),
}


def _check_integers(name: str, value: object, shapes: Sequence[str]) -> None:
    if value is None and name not in ("clean", "corrupted", "answers"):
        return
    received = f"got {type(value).__name__}"
    if isinstance(value, Tensor):
        is_integer = not (
            value.is_floating_point() or value.is_complex() or value.dtype == torch.bool
        )
        if is_integer and value.ndim in [shape.count(",") + 1 for shape in shapes]:
            return
        received = f"got one of {value.dtype} and shape {tuple(value.shape)}"
    raise ValueError(f"{name} must be a tensor of integers, {' or '.join(shapes)}, {received}.")


@dataclass(frozen=True, eq=False, repr=False)
class Prompts:
    """Aligned pairs of clean and corrupted prompts with the tokens that answer them.

    Raises:
        ValueError: when a field is not a tensor of integers, shapes disagree, a token is negative,
            a position lies outside its prompt, there are no prompts, or a token is both an answer
            and a distractor of the same prompt.
    """

    clean: Int[Tensor, "n pos"]
    """Tokens of the prompts; shorter ones are padded on the right."""

    corrupted: Int[Tensor, "n pos"]
    """The same prompts with the tokens that decide the answer exchanged, aligned by position."""

    answers: TokenSet
    """The right next token of each clean prompt, `[n]`, or a set of them, `[n, k]`.

    A token that occurs twice in a row counts once; smaller sets repeat a token, see `stack_sets`.
    """

    distractors: TokenSet | None
    """The wrong next tokens, `[n]` or `[n, k]`; None for every other token."""

    positions: Int[Tensor, " n"] | None = None
    """The position whose logits predict the answer; None for each prompt's last token."""

    lengths: Int[Tensor, " n"] | None = None
    """Number of tokens of each prompt before its padding; None for prompts without padding."""

    def __post_init__(self) -> None:
        for name, shapes in _SHAPES.items():
            _check_integers(name, getattr(self, name), shapes)
        n, width = self.clean.shape
        if n == 0 or width == 0:
            raise ValueError(f"Prompts needs at least one prompt, got clean of shape {(n, width)}.")
        if self.corrupted.shape != self.clean.shape:
            raise ValueError(
                f"clean and corrupted prompts must be aligned, got shapes "
                f"{tuple(self.clean.shape)} and {tuple(self.corrupted.shape)}; pad both alike."
            )
        for name in ("answers", "distractors", "positions", "lengths"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"{name} has {len(value)} rows for {n} prompts; give one each.")
        self._check_positions(width)
        self._check_tokens()

    def _check_positions(self, width: int) -> None:
        if self.lengths is not None and not bool(
            ((self.lengths >= 1) & (self.lengths <= width)).all()
        ):
            raise ValueError(
                f"lengths must lie in 1..{width}, got {self.lengths.min()}..{self.lengths.max()}."
            )
        positions = self.answer_positions
        lengths = self.lengths if self.lengths is not None else torch.full_like(positions, width)
        if not bool(((positions >= 0) & (positions < lengths)).all()):
            raise ValueError(
                f"positions must lie inside the prompts (0..length-1), got "
                f"{positions.min()}..{positions.max()} for prompts of up to {width} tokens."
            )

    def _check_tokens(self) -> None:
        for name in ("answers", "distractors"):
            tokens = getattr(self, name)
            if tokens is not None and tokens.numel() == 0:
                raise ValueError(f"{name} must have at least one token for each prompt, got none.")
        for name in ("clean", "corrupted", "answers", "distractors"):
            tokens = getattr(self, name)
            if tokens is not None and bool((tokens < 0).any()):
                raise ValueError(
                    f"{name} has the token {int(tokens.min())}, and tokens are 0 or more; pad on "
                    "the right with any token, and pass the lengths without padding as lengths=."
                )
        if self.distractors is None:
            return
        answers = self.answers.reshape(len(self), -1, 1)
        distractors = self.distractors.reshape(len(self), 1, -1)
        clashes = (answers == distractors).flatten(1).any(-1)  # [n]
        if bool(clashes.any()):
            rows = clashes.nonzero().flatten().tolist()
            raise ValueError(
                f"prompts {rows[:5]} have a token that is both answer and distractor; "
                "the two-way loss needs distinct tokens."
            )

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        n, width = self.clean.shape
        at_most = "" if self.lengths is None else "at most "
        return f"Prompts({n:,} pairs of {at_most}{width:,} tokens)"

    def __getitem__(self, index: slice | Int[Tensor, " m"]) -> "Prompts":
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> "Prompts":
        """The same prompts on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def batches(self, size: int) -> Iterator["Prompts"]:
        """The prompts in order, `size` at a time."""
        if size < 1:
            raise ValueError(f"a batch needs at least one prompt, got size={size}.")
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def answer_positions(self) -> Int[Tensor, " n"]:
        """The position whose logits predict the answer."""
        if self.positions is not None:
            return self.positions
        if self.lengths is not None:
            return self.lengths - 1
        n, width = self.clean.shape
        return torch.full((n,), width - 1, device=self.clean.device)

    @property
    def swapped(self) -> "Prompts":
        """Corrupted prompts as the clean ones, with answers and distractors exchanged."""
        if self.distractors is None:
            raise ValueError("prompts whose distractors are 'every other token' have no swap.")
        return Prompts(
            clean=self.corrupted,
            corrupted=self.clean,
            answers=self.distractors,
            distractors=self.answers,
            positions=self.positions,
            lengths=self.lengths,
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Prompts":
        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        return Prompts(
            clean=function(self.clean),
            corrupted=function(self.corrupted),
            answers=function(self.answers),
            distractors=optional(self.distractors),
            positions=optional(self.positions),
            lengths=optional(self.lengths),
        )


@dataclass(frozen=True, eq=False)
class Task:
    """A behaviour of the model, as prompts with answers in three splits."""

    name: str

    train: Prompts
    """For discovery: what a method learns from."""

    validation: Prompts | None = None
    """For every choice: thresholds, sizes, searches, calibration."""

    held_out: Prompts | None = None
    """For results that are reported, and nothing else."""

    def split(self, name: str) -> Prompts:
        """The prompts of one split.

        Raises:
            ValueError: when the task lacks it, or there is no such split.
        """
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}; there are {', '.join(SPLITS)}.")
        prompts = getattr(self, name)
        if prompts is None:
            raise ValueError(
                f"task {self.name!r} has no {name} split, which this needs: "
                f"pass Task(..., {name}=Prompts(...))."
            )
        return prompts

    def to(self, device: torch.device | str) -> "Task":
        """The same task on another device."""
        splits = (self.train, self.validation, self.held_out)
        return Task(self.name, *(None if s is None else s.to(device) for s in splits))  # type: ignore[arg-type]

    def to_jsonl(self, path: str | PathLike[str]) -> None:
        """Write one line per prompt; see `sparse_lens.task_io.save`."""
        from sparse_lens import task_io

        task_io.save(self, path)

    @classmethod
    def from_jsonl(
        cls,
        path: str | PathLike[str],
        *,
        name: str | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        prepend_bos: bool = False,
    ) -> "Task":
        """Read one prompt per line; see `sparse_lens.task_io.load`."""
        from sparse_lens import task_io

        return task_io.load(path, name=name, tokenizer=tokenizer, prepend_bos=prepend_bos)

    @classmethod
    def from_dataset(
        cls,
        dataset: Iterable[Any] | Mapping[Any, Iterable[Any]],
        *,
        name: str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        prepend_bos: bool = False,
    ) -> "Task":
        """A task from a Hugging Face `Dataset`, or a `DatasetDict` with one for each split.

        See `sparse_lens.task_io.from_rows` for what the rows hold.
        """
        from sparse_lens import task_io

        return task_io.from_rows(dataset, name=name, tokenizer=tokenizer, prepend_bos=prepend_bos)
