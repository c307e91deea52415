"""The corpus and its tokenizer, built small."""

import hashlib
import sysconfig
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sparse_lens.models.tokenizer import END_OF_TEXT, load_tokenizer, save_tokenizer
from sparse_lens.training.bpe import REQUIRED_TOKENS, missing_tokens, train_bpe
from sparse_lens.training.corpus import (
    Corpus,
    StandardLibrary,
    build_corpus,
    is_chosen,
    train_tokenizer,
)
from sparse_lens.training.grammar import generate_modules
from sparse_lens.training.stripping import strip_source

SAMPLE = ("argparse.py", "dataclasses.py", "enum.py", "functools.py", "inspect.py", "typing.py")


def _library(names: tuple[str, ...]) -> StandardLibrary:
    folder = Path(sysconfig.get_paths()["stdlib"])
    train = {name: strip_source((folder / name).read_text(encoding="utf-8")) for name in names}
    return StandardLibrary(train=train, validation={"abc.py": "x = 1\n", "cmd.py": "y = 'é'\n"})


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(_library(SAMPLE))


@pytest.fixture(scope="module")
def library() -> StandardLibrary:
    # Long enough that the last module, which goes beyond the grammar's share, is little of it.
    return _library(("textwrap.py", "string.py", "argparse.py", "inspect.py"))


@pytest.fixture(scope="module")
def corpus(tokenizer: PreTrainedTokenizerFast, library: StandardLibrary) -> Corpus:
    return build_corpus(
        tokenizer, library=library, grammar_share=0.5, validation_grammar_tokens=2000
    )


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_the_library_is_stripped_sorted_and_filtered(tmp_path: Path) -> None:
    good = {f"m{number}.py": f"x = {number}  # c\n" for number in range(10)}
    excluded = ("site-packages/a.py", "encodings/b.py", "idle_test/c.py", "__pycache__/d.py")
    other = {"bad.py": "print 'two'\n", "empty.py": "# c\n", "notes.txt": "x\n"}
    tests = {f"test/test_{number}.py": "x = 1\n" for number in range(40)}
    _write(tmp_path, {**good, **other, **tests, **dict.fromkeys(excluded, "x = 1\n")})
    library = StandardLibrary.load(tmp_path, tests_share=0.0)
    both = {**library.train, **library.validation}
    assert both == {name: text.replace("  # c", "") for name, text in good.items()}
    assert list(library.train) == sorted(library.train)
    with_tests = StandardLibrary.load(tmp_path, tests_share=0.5)
    assert 10 <= len(with_tests.train) + len(with_tests.validation) - len(good) <= 30


def test_the_split_is_disjoint_and_stays_when_files_come_and_go(tmp_path: Path) -> None:
    files = {f"package/m{number}.py": f"x = {number}\n" for number in range(300)}
    _write(tmp_path / "all", files)
    _write(tmp_path / "some", dict(list(files.items())[::2]))
    everything = StandardLibrary.load(tmp_path / "all", validation_share=0.1)
    some = StandardLibrary.load(tmp_path / "some", validation_share=0.1)
    assert everything.train.keys().isdisjoint(everything.validation)
    assert 10 < len(everything.validation) < 60
    assert some.train.keys() <= everything.train.keys()
    assert some.validation.keys() <= everything.validation.keys()
    for name in files:
        held_out = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 16**16 < 0.1
        assert (name in everything.validation) == held_out == is_chosen(name, 0.1)


def test_a_folder_without_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Python source"):
        StandardLibrary.load(tmp_path)


def test_the_corpus_is_the_same_every_time(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, library: StandardLibrary
) -> None:
    again = build_corpus(
        tokenizer, library=library, grammar_share=0.5, validation_grammar_tokens=2000
    )
    other = build_corpus(
        tokenizer, library=library, grammar_share=0.5, validation_grammar_tokens=2000, seed=1
    )
    assert torch.equal(again.train, corpus.train)
    assert torch.equal(again.validation_grammar, corpus.validation_grammar)
    assert not torch.equal(other.train[:1000], corpus.train[:1000])
    assert not torch.equal(other.validation_grammar[:500], corpus.validation_grammar[:500])


def _documents(tokens: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    text = tokenizer.decode(tokens.tolist())
    assert isinstance(text, str)
    documents = text.split(END_OF_TEXT)
    assert documents.pop() == ""
    return documents


def test_documents_are_whole_and_half_of_the_tokens_are_grammar(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, library: StandardLibrary
) -> None:
    documents = _documents(corpus.train, tokenizer)
    files = set(library.train.values())
    assert files <= set(documents)
    grammar = [document for document in documents if document not in files]
    share = sum(len(tokenizer.encode(document)) + 1 for document in grammar) / len(corpus.train)
    assert share == pytest.approx(0.5, abs=0.02)
    assert _documents(corpus.validation, tokenizer) == list(library.validation.values())
    held_out = _documents(corpus.validation_grammar, tokenizer)
    assert len(corpus.validation_grammar) >= 2000
    assert set(held_out).isdisjoint(documents)


def test_a_corpus_without_grammar(
    tokenizer: PreTrainedTokenizerFast, library: StandardLibrary
) -> None:
    corpus = build_corpus(
        tokenizer, library=library, grammar_share=0.0, validation_grammar_tokens=0
    )
    assert sorted(_documents(corpus.train, tokenizer)) == sorted(library.train.values())
    assert len(corpus.validation_grammar) == 0
    with pytest.raises(ValueError, match="grammar_share"):
        build_corpus(tokenizer, library=library, grammar_share=1.0)


def test_the_vocabulary_is_full_and_ends_with_end_of_text(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert len(tokenizer) == 1024
    assert tokenizer.convert_tokens_to_ids(END_OF_TEXT) == 1023


def test_required_tokens_are_single(tokenizer: PreTrainedTokenizerFast) -> None:
    assert missing_tokens(tokenizer) == []
    ids = [tokenizer.encode(text) for text in REQUIRED_TOKENS]
    assert len({*map(tuple, ids)}) == len(REQUIRED_TOKENS)
    assert missing_tokens(tokenizer, [" quixotic"]) == [" quixotic"]


@pytest.mark.parametrize(
    "text",
    [
        "x = 'naïve — ∑'\r\n\tif  y:\n\n\n  z",
        "",
        "\x00\x7f\n",
        *generate_modules(characters=1, seed=5),
    ],
)
def test_any_text_comes_back(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ('x = {"abc"', ":"),
        ('x = ["abc"', ","),
        ("x = {abc", ":"),
        ("async def abc", "("),
        ("return lambda abc", ":"),
        ("while abc(d)", ":\n"),
        ("for abc", " in"),
        ('print("abc', '")\n'),
        ("print('abc", "')\n"),
        ("x = [[1, 2], [3, 4", "]]\n"),
        ("x = [1, 2", "]\n"),
        ("    abc", " +="),
        ("    abc", ".add"),
        ("with open(abc)", " as"),
        ("from abc.de", " import"),
    ],
)
@pytest.mark.parametrize("rest", ["", "abc(de, fg)", " x", "[1]"])
def test_an_answer_is_a_token_whatever_follows(
    prompt: str, answer: str, rest: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    """A prompt's tokens, then the answer's: the text is never cut in another way."""
    if answer.endswith("\n"):
        rest = rest.strip() and f"    {rest}"
    elif answer == " +=":
        rest = rest and f" {rest.strip()}"
    tokens = tokenizer.encode(prompt + answer + rest)
    expected = [*tokenizer.encode(prompt), *tokenizer.encode(answer)]
    assert tokens[: len(expected)] == expected


def test_files_reload_to_the_same_tokenizer(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    save_tokenizer(tokenizer, tmp_path)
    text = "".join(generate_modules(characters=5000, seed=9))
    assert load_tokenizer(tmp_path).encode(text) == tokenizer.encode(text)


def test_too_little_text_for_the_vocabulary_is_an_error() -> None:
    with pytest.raises(ValueError, match="vocabulary of"):
        train_bpe(["x = 1\n"], required=[])
