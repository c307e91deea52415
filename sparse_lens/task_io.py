"""Tasks from and to JSON lines and data sets: one row per prompt."""

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

_SPLIT_ALIASES = {"test": "held_out"}
_KEYS = ("split", "clean", "corrupted", "answers", "distractors", "position")
_MAX_PROBLEMS_SHOWN = 20

Row = Mapping[str, Any]


def save(task: Task, path: str | os.PathLike[str]) -> None:
    """Write one JSON object per line and prompt, in tokens without padding.

    The folder must exist; an existing file is replaced in one step.
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
        name: of the task; None for the name of the file.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: for malformed lines, with each one's number and the reason.
    """
    path = Path(path)
    rows: list[tuple[str, Row]] = []  # each with its name in messages
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
    """A task from rows, such as those of a `datasets.Dataset`, or of one for each split.

    A row has the keys

    - `clean`, `corrupted`: text, or a list of tokens; the same number of tokens in both;
    - `answers`, `distractors`: a token, or a list of any number of them; as text, each must be
      one token. Without distractors, all other tokens are distractors;
    - `split`: train (the default), validation or held_out. Rows that are given by split need none,
      and a data set's `test` split is held_out;
    - `position`: the index of the token that predicts the answer, counted from 0 in the row's own
      tokens; by default the last one.

    Args:
        tokenizer: for rows of text.
        prepend_bos: prepend the tokenizer's beginning-of-sequence token to prompts of text.

    Raises:
        ValueError: for malformed rows, with each one's number (from 0) and the reason.
    """
    named_rows: list[tuple[str, Row]] = []  # each with its name in messages
    problems: list[str] = []

    def add(row_name: str, row: Any, **split: str) -> None:
        if isinstance(row, Mapping):
            named_rows.append((row_name, dict(row) | split))
        else:
            problems.append(f"{row_name}: expected a mapping, got {type(row).__name__}")

    if isinstance(rows, Mapping):
        for given_split, split_rows in rows.items():
            split = _SPLIT_ALIASES.get(str(given_split), str(given_split))
            for i, row in enumerate(split_rows):
                add(f"{split} row {i}", row, split=split)
    else:
        for i, row in enumerate(rows):
            add(f"row {i}", row)
    reader = _RowReader(tokenizer, prepend_bos=prepend_bos)
    return _task(name, named_rows, reader, problems, f"task {name!r}")


@dataclass(frozen=True)
class _Example:
    """A row in tokens."""

    split: str
    clean: list[int]
    corrupted: list[int]
    answers: list[int]
    distractors: list[int] | None
    position: int | None


class _RowReader:
    """Checks rows and converts them to tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, *, prepend_bos: bool) -> None:
        self._tokenizer, self._prefix = tokenizer, []
        if prepend_bos:
            if tokenizer is None or tokenizer.bos_token_id is None:
                raise ValueError("prepend_bos=True takes a tokenizer with a bos_token.")
            self._prefix = [tokenizer.bos_token_id]

    def read(self, row: Row) -> _Example:
        """The row in tokens.

        Raises:
            ValueError: with the reason why the row is malformed.
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
        return _Example(
            split, clean, corrupted, answers, distractors, self._position(row, len(clean))
        )

    def _position(self, row: Row, n_tokens: int) -> int | None:
        """The index of the token that predicts the answer, counted in all `n_tokens` tokens."""
        position = row.get("position")
        n_prefix = len(self._prefix) if isinstance(row["clean"], str) else 0
        n_own = n_tokens - n_prefix
        if position is None:
            return None
        if not _is_token(position) or position >= n_own:
            raise ValueError(f"position {position!r} is none of the {n_own} tokens'")
        return position + n_prefix

    def _prompt(self, row: Row, key: str) -> list[int]:
        value = row[key]
        if isinstance(value, str):
            tokens = [*self._prefix, *self._encode(value, key)]
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
    """The task of these rows.

    Args:
        rows: each with its name in messages.
        problems: those that are known already; this adds its own.
        source: the name of the whole in messages.

    Raises:
        ValueError: for any problem, listing all of them.
    """
    examples: dict[str, list[_Example]] = {split: [] for split in SPLITS}
    for row_name, row in rows:
        try:
            example = reader.read(row)
            _check_like(examples[example.split], example)
        except ValueError as problem:
            problems.append(f"{row_name}: {problem}")
        else:
            examples[example.split].append(example)
    if problems:
        shown = "\n  ".join(problems[:_MAX_PROBLEMS_SHOWN])
        n_more = len(problems) - _MAX_PROBLEMS_SHOWN
        raise ValueError(
            f"{source} has {len(problems)} malformed rows:\n  {shown}"
            + (f"\n  and {n_more} more" if n_more > 0 else "")
        )
    if not examples["train"]:
        raise ValueError(f"{source} has no train rows, which every task needs.")
    prompts = {split: _prompts(of_split) for split, of_split in examples.items() if of_split}
    return Task(
        name,
        train=prompts["train"],
        validation=prompts.get("validation"),
        held_out=prompts.get("held_out"),
    )


def _check_like(earlier: Sequence[_Example], example: _Example) -> None:
    """Check that either all examples of a split have distractors, or none has."""
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
    """Rows of tokens, with the keys that `from_rows` reads, without `split`."""
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
