"""Tasks in files and data sets: one row a prompt, each checked where it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sparse_lens.atomic import write_atomically
from sparse_lens.task import SPLITS, Prompts, Task, stack_sets

_ALSO_HELD_OUT = "test"
_KEYS = ("split", "clean", "corrupted", "answers", "distractors", "position")
_MOST_PROBLEMS = 20

Row = Mapping[str, Any]


def save(task: Task, path: str | os.PathLike[str]) -> None:
    """Write one JSON object a line, one line a prompt, in tokens and without padding.

    The folder must exist; a file that is there is replaced in one step.
    """
    lines = [
        json.dumps({"split": split, **row})
        for split in SPLITS
        if getattr(task, split) is not None
        for row in _rows_of(task.split(split))
    ]
    write_atomically(Path(path), "".join(line + "\n" for line in lines).encode())


def load(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    prepend_bos: bool = False,
) -> Task:
    """Read a task from JSON lines; see `from_rows` for what they hold. Empty lines are skipped.

    Args:
        name: of the task; None for the file's.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for malformed lines, each with its number and the reason.
    """
    path = Path(path)
    rows: list[tuple[str, Row]] = []
    problems: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"line {number}: not JSON ({error.msg})")
            continue
        if isinstance(row, dict):
            rows.append((f"line {number}", row))
        else:
            problems.append(f"line {number}: expected an object, got {type(row).__name__}")
    reader = _RowReader(tokenizer, prepend_bos=prepend_bos)
    return _task(name or path.stem, rows, reader, problems, str(path))


def from_rows(
    rows: Iterable[Any] | Mapping[Any, Iterable[Any]],
    *,
    name: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    prepend_bos: bool = False,
) -> Task:
    """A task of rows, such as those of a `datasets.Dataset`, or of one for each split.

    A row has the keys

    - `clean`, `corrupted`: text, or a list of tokens; as many tokens in both;
    - `answers`, `distractors`: a token, or a list of them, of any length; as text, each must be
      one token. Without distractors they are all other tokens;
    - `split`: train (if left out), validation or held_out; rows that come by split need none, and
      a data set's `test` split is held_out;
    - `position`: of the token that predicts the answer, counted from 0 in the row's own tokens;
      the last one if left out.

    Args:
        tokenizer: for rows of text.
        prepend_bos: begin prompts that are text with the tokenizer's token for that.

    Raises:
        ValueError: for malformed rows, each with its number (from 0) and the reason.
    """
    labelled: list[tuple[str, Row]] = []
    problems: list[str] = []

    def add(label: str, row: Any, **known: str) -> None:
        if isinstance(row, Mapping):
            labelled.append((label, dict(row) | known))
        else:
            problems.append(f"{label}: expected a mapping, got {type(row).__name__}")

    if isinstance(rows, Mapping):
        for split, rows_of_split in rows.items():
            split = "held_out" if split == _ALSO_HELD_OUT else str(split)
            for i, row in enumerate(rows_of_split):
                add(f"{split} row {i}", row, split=split)
    else:
        for i, row in enumerate(rows):
            add(f"row {i}", row)
    reader = _RowReader(tokenizer, prepend_bos=prepend_bos)
    return _task(name, labelled, reader, problems, f"task {name!r}")


@dataclass(frozen=True)
class _Example:
    split: str
    clean: list[int]
    corrupted: list[int]
    answers: list[int]
    distractors: list[int] | None
    position: int | None


class _RowReader:
    """From a row to tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, *, prepend_bos: bool) -> None:
        self._tokenizer, self._first = tokenizer, []
        if prepend_bos:
            if tokenizer is None or tokenizer.bos_token_id is None:
                raise ValueError("prepend_bos=True takes a tokenizer with a token to begin with.")
            self._first = [tokenizer.bos_token_id]

    def read(self, row: Row) -> _Example:
        """The row's tokens.

        Raises:
            ValueError: with the reason why it is none of a task.
        """
        unknown = [key for key in row if key not in _KEYS]
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}; there are {', '.join(_KEYS)}")
        for key in ("clean", "corrupted", "answers"):
            if row.get(key) is None:
                raise ValueError(f"{key} is missing")
        split = row.get("split") or "train"
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        clean, corrupted = self._prompt(row, "clean"), self._prompt(row, "corrupted")
        if len(clean) != len(corrupted):
            raise ValueError(
                f"clean has {len(clean)} tokens and corrupted {len(corrupted)}; they must be "
                "aligned"
            )
        answers, distractors = self._set(row, "answers"), None
        if row.get("distractors") is not None:
            distractors = self._set(row, "distractors")
            both = sorted(set(answers) & set(distractors))
            if both:
                raise ValueError(f"token {both[0]} is both answer and distractor")
        position = row.get("position")
        n_tokens = len(clean) - (len(self._first) if isinstance(row["clean"], str) else 0)
        if position is not None and (not _is_token(position) or position >= n_tokens):
            raise ValueError(f"position {position!r} is none of the {n_tokens} tokens'")
        if position is not None and isinstance(row["clean"], str):
            position += len(self._first)
        return _Example(split, clean, corrupted, answers, distractors, position)

    def _prompt(self, row: Row, key: str) -> list[int]:
        value = row[key]
        if isinstance(value, str):
            tokens = [*self._first, *self._encode(value, key)]
        else:
            tokens = self._tokens(value, key)
        if not tokens:
            raise ValueError(f"{key} has no tokens")
        return tokens

    def _set(self, row: Row, key: str) -> list[int]:
        value = row[key]
        items = value if isinstance(value, (list, tuple)) else [value]
        if not items:
            raise ValueError(f"{key} has no tokens")
        tokens = []
        for item in items:
            if isinstance(item, str):
                pieces = self._encode(item, key)
                if len(pieces) != 1:
                    raise ValueError(f"{key}: {item!r} is not one token but {len(pieces)}")
                tokens += pieces
            else:
                tokens += self._tokens([item], key)
        if len(set(tokens)) < len(tokens):
            raise ValueError(f"{key} has a token twice")
        return tokens

    def _encode(self, text: str, key: str) -> list[int]:
        if self._tokenizer is None:
            raise ValueError(f"{key} is text; pass tokenizer=, or tokens in place of text")
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]

    def _tokens(self, value: Any, key: str) -> list[int]:
        if not isinstance(value, Sequence) or not all(map(_is_token, value)):
            raise ValueError(f"{key} must be text or a list of tokens (0, 1, ...), got {value!r}")
        if self._tokenizer is not None and value and max(value) >= len(self._tokenizer):
            raise ValueError(f"{key} has token {max(value)}, the tokenizer {len(self._tokenizer)}")
        return list(value)


def _task(
    name: str,
    rows: Sequence[tuple[str, Row]],
    reader: _RowReader,
    problems: list[str],
    source: str,
) -> Task:
    """The task of rows, each with its label in messages."""
    examples: dict[str, list[_Example]] = {split: [] for split in SPLITS}
    for label, row in rows:
        try:
            example = reader.read(row)
            _check_like(examples[example.split], example)
        except ValueError as problem:
            problems.append(f"{label}: {problem}")
        else:
            examples[example.split].append(example)
    if problems:
        shown = "\n  ".join(problems[:_MOST_PROBLEMS])
        more = len(problems) - _MOST_PROBLEMS
        raise ValueError(
            f"{source} has {len(problems)} malformed rows:\n  {shown}"
            + (f"\n  and {more} more" if more > 0 else "")
        )
    if not examples["train"]:
        raise ValueError(f"{source} has no train rows, which every task needs.")
    prompts = {split: _prompts(rows) for split, rows in examples.items() if rows}
    return Task(
        name,
        train=prompts["train"],
        validation=prompts.get("validation"),
        held_out=prompts.get("held_out"),
    )


def _check_like(earlier: Sequence[_Example], example: _Example) -> None:
    """Refuse a row with distractors in a split without, or the other way around."""
    if earlier and (earlier[0].distractors is None) != (example.distractors is None):
        raise ValueError("distractors must be given in all rows of a split or in none")


def _prompts(examples: Sequence[_Example]) -> Prompts:
    lengths = torch.tensor([len(example.clean) for example in examples])
    width = int(lengths.max())

    def padded(rows: Iterable[list[int]]) -> Tensor:
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    positions = None
    if any(example.position is not None for example in examples):
        positions = torch.tensor(
            [len(e.clean) - 1 if e.position is None else e.position for e in examples]
        )
    distractors = [example.distractors for example in examples if example.distractors is not None]
    return Prompts(
        clean=padded(example.clean for example in examples),
        corrupted=padded(example.corrupted for example in examples),
        answers=stack_sets([example.answers for example in examples]),
        distractors=stack_sets(distractors) if distractors else None,
        positions=positions,
        lengths=None if bool((lengths == width).all()) else lengths,
    )


def _rows_of(prompts: Prompts) -> Iterable[dict[str, Any]]:
    n, width = prompts.clean.shape
    lengths = [width] * n if prompts.lengths is None else prompts.lengths.tolist()
    for i in range(n):
        row: dict[str, Any] = {
            "clean": prompts.clean[i, : lengths[i]].tolist(),
            "corrupted": prompts.corrupted[i, : lengths[i]].tolist(),
            "answers": _without_repeats(prompts.answers[i]),
        }
        if prompts.distractors is not None:
            row["distractors"] = _without_repeats(prompts.distractors[i])
        if prompts.positions is not None:
            row["position"] = int(prompts.positions[i])
        yield row


def _without_repeats(tokens: Tensor) -> int | list[int]:
    return list(dict.fromkeys(tokens.tolist())) if tokens.ndim else int(tokens)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
