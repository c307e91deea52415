"""Tasks come back from files and data sets as they were, and bad rows are named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict

from sparse_lens.task import Prompts, Task
from tests.models.tiny_gpt import letters

ROW: dict[str, Any] = {"clean": [1, 2, 3], "corrupted": [1, 4, 3], "answers": 5, "distractors": 6}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def equal(first: Prompts | None, second: Prompts | None) -> bool:
    if first is None or second is None:
        return first is second
    for name in ("clean", "corrupted", "answers", "distractors", "positions", "lengths"):
        one, other = getattr(first, name), getattr(second, name)
        if (one is None) != (other is None) or (one is not None and not torch.equal(one, other)):
            return False
    return True


def prompts(**changes: Any) -> Prompts:
    clean = torch.tensor([[1, 2, 3], [4, 5, 0]])
    values: dict[str, Any] = {
        "clean": clean,
        "corrupted": torch.tensor([[1, 7, 3], [6, 5, 0]]),
        "answers": torch.tensor([8, 9]),
        "distractors": torch.tensor([9, 8]),
        "lengths": torch.tensor([3, 2]),
    }
    return Prompts(**(values | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distractors": None},
        {"answers": torch.tensor([[8, 10], [9, 11]])},
        {"answers": torch.tensor([[10, 11, 12], [13, 14, 13]])},
        {"positions": torch.tensor([0, 1])},
        {"lengths": None},
    ],
    ids=["padded", "all others", "sets", "sets of different sizes", "positions", "unpadded"],
)
def test_a_task_comes_back_as_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    task = Task("mine", train=prompts(**changes), held_out=prompts())
    task.to_jsonl(tmp_path / "mine.jsonl")
    again = Task.from_jsonl(tmp_path / "mine.jsonl")
    assert again.name == "mine"
    assert equal(again.train, task.train)
    assert again.validation is None
    assert equal(again.held_out, task.held_out)


def test_sets_may_be_of_different_sizes(tmp_path: Path) -> None:
    sets = [[5], [7, 8, 9], [8, 7]]
    path = write(tmp_path / "task.jsonl", *(ROW | {"answers": tokens} for tokens in sets))
    task = Task.from_jsonl(path)
    assert [set(row) for row in task.train.answers.tolist()] == [set(tokens) for tokens in sets]
    task.to_jsonl(path)
    assert [json.loads(line)["answers"] for line in path.read_text().splitlines()] == sets


def test_text_is_read_with_a_tokenizer(tmp_path: Path) -> None:
    row = {"clean": "abc", "corrupted": "adc", "answers": ["e", "f"], "distractors": ["g", 7]}
    path = write(tmp_path / "task.jsonl", row, {**row, "split": "validation", "position": 1})
    task = Task.from_jsonl(path, name="letters", tokenizer=letters())
    assert task.name == "letters"
    assert task.train.clean.tolist() == [[0, 1, 2]]
    assert task.train.corrupted.tolist() == [[0, 3, 2]]
    assert task.train.answers.tolist() == [[4, 5]]
    assert task.train.distractors is not None
    assert task.train.distractors.tolist() == [[6, 7]]
    assert task.split("validation").answer_positions.tolist() == [1]


def test_prompts_begin_with_a_token_of_the_tokenizers_if_asked() -> None:
    tokenizer = letters()
    tokenizer.bos_token = tokenizer.eos_token
    row = {"clean": "ab", "corrupted": "cb", "answers": "d"}
    rows = [row, row | {"position": 0}]
    task = Task.from_dataset(rows, name="task", tokenizer=tokenizer, prepend_bos=True)
    assert task.train.clean.tolist() == [[tokenizer.bos_token_id, 0, 1]] * 2
    assert task.train.answer_positions.tolist() == [2, 1]  # of the row's own tokens


def test_data_sets_of_hugging_face() -> None:
    whole = Dataset.from_list([ROW | {"split": None}, ROW | {"split": "held_out"}])
    task = Task.from_dataset(whole, name="mine")
    assert (len(task.train), task.validation, len(task.split("held_out"))) == (1, None, 1)
    parts = DatasetDict({"train": Dataset.from_list([ROW]), "test": Dataset.from_list([ROW, ROW])})
    task = Task.from_dataset(parts, name="mine")
    assert (len(task.train), task.validation, len(task.split("held_out"))) == (1, None, 2)
    assert task.train.answers.tolist() == [5]


BAD: dict[str, tuple[Any, str]] = {
    "a list": ([1], "expected an object, got list"),
    "no prompt": ({"corrupted": [1], "answers": 2}, "clean is missing"),
    "an unknown key": (ROW | {"answer": 1}, "unknown key 'answer'; there are split, clean"),
    "an unknown split": (ROW | {"split": "dev"}, "no split 'dev'; there are train, validation"),
    "misaligned": (ROW | {"corrupted": [1, 2]}, "clean has 3 tokens and corrupted 2"),
    "empty": (ROW | {"clean": [], "corrupted": []}, "clean has no tokens"),
    "text without tokenizer": (ROW | {"clean": "abc"}, "clean is text; pass tokenizer="),
    "fractions": (ROW | {"answers": 0.5}, "answers must be text or a list of tokens"),
    "a negative token": (ROW | {"clean": [1, 2, -3]}, r"clean must be .* got \[1, 2, -3\]"),
    "a clash": (ROW | {"distractors": [5]}, "token 5 is both answer and distractor"),
    "twice": (ROW | {"answers": [5, 5]}, "answers has a token twice"),
    "outside": (ROW | {"position": 3}, "position 3 is none of the 3 tokens'"),
    "no distractors": (
        {key: value for key, value in ROW.items() if key != "distractors"},
        "distractors must be given in all rows of a split or in none",
    ),
}


@pytest.mark.parametrize(("row", "reason"), BAD.values(), ids=BAD)
def test_a_malformed_row_is_named(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "task.jsonl", ROW, row, ROW)
    with pytest.raises(ValueError, match=f"1 malformed rows:\n  line 2: {reason}"):
        Task.from_jsonl(path)


def test_a_line_ends_where_json_lines_end(tmp_path: Path) -> None:
    tokenizer = letters()
    tokenizer.add_tokens(["\u2028"])
    row = {"clean": "a\u2028", "corrupted": "b\u2028", "answers": "c"}
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\r\n", encoding="utf-8", newline="")
    assert len(Task.from_jsonl(path, tokenizer=tokenizer).train) == 1


def test_all_malformed_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n{broken\n" + "{}\n" * 30)
    with pytest.raises(ValueError, match="31 malformed rows:\n  line 3: not JSON") as error:
        Task.from_jsonl(path)
    assert "line 4: clean is missing" in str(error.value)
    assert str(error.value).endswith("and 11 more")


def test_text_with_a_tokenizer_has_its_own_errors() -> None:
    row = {"clean": "abc", "corrupted": "adc", "answers": "ef"}
    with pytest.raises(ValueError, match="row 0: answers: 'ef' is not one token but 2"):
        Task.from_dataset([row], name="mine", tokenizer=letters())
    with pytest.raises(ValueError, match="row 0: clean has token 99, the tokenizer 17"):
        Task.from_dataset([{**ROW, "clean": [1, 2, 99]}], name="mine", tokenizer=letters())
    with pytest.raises(ValueError, match="prepend_bos=True takes a tokenizer"):
        Task.from_dataset([ROW], name="mine", prepend_bos=True)


def test_rows_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match="train row 1: expected a mapping, got str"):
        Task.from_dataset({"train": [ROW, "a row"]}, name="mine")


def test_a_task_without_train_rows_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "task.jsonl", ROW | {"split": "held_out"})
    with pytest.raises(ValueError, match=r"task\.jsonl has no train rows"):
        Task.from_jsonl(path)
