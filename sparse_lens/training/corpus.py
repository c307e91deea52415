"""The training text of the embedded models: this Python's standard library and a grammar."""

import hashlib
import random
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sparse_lens.models.tokenizer import END_OF_TEXT
from sparse_lens.training.bpe import train_bpe
from sparse_lens.training.grammar import generate_modules
from sparse_lens.training.stripping import strip_source

# Folders of third-party packages, and of modules that are mostly tables of data.
_EXCLUDED = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "idle_test", "pydoc_data", "encodings"}
)
_BATCH = 64  # documents encoded at a time
_VALIDATION_SEED = 1_000_003


@dataclass(frozen=True)
class StandardLibrary:
    """Stripped source files by name, split in two by a hash of the name."""

    train: dict[str, str] = field(repr=False)
    validation: dict[str, str] = field(repr=False)

    @classmethod
    def load(
        cls,
        directory: str | Path | None = None,
        *,
        tests_share: float = 0.25,
        validation_share: float = 0.05,
    ) -> "StandardLibrary":
        """Read and strip every module under a directory, by default the running Python's library.

        Of the library's own tests, which are larger than all the rest, only a share is taken (and
        none where an installation comes without them). Files that do not parse (they are test
        data) are left out, and so are encodings' tables and pydoc's texts. Files come in the order
        of their names. Raises ``ValueError`` when nothing is found.
        """
        root = Path(directory or sysconfig.get_paths()["stdlib"])
        train: dict[str, str] = {}
        validation: dict[str, str] = {}
        for name, text in _stripped_files(root, tests_share):
            split = validation if is_chosen(name, validation_share) else train
            split[name] = text
        if not train and not validation:
            raise ValueError(f"found no Python source under {root}; pass a directory that has some")
        return cls(train=train, validation=validation)


def is_chosen(name: str, share: float) -> bool:
    """Whether a file is among this share of all files, by a hash of its name."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _is_test(name: str) -> bool:
    return not {"test", "tests"}.isdisjoint(name.split("/")[:-1])


def _stripped_files(root: Path, tests_share: float) -> Iterator[tuple[str, str]]:
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name in sorted(paths):
        if _EXCLUDED.intersection(name.split("/")):
            continue
        # A different hash than the one that splits training and validation.
        if _is_test(name) and not is_chosen(f"+{name}", tests_share):
            continue
        try:
            with tokenize.open(paths[name]) as file:
                text = strip_source(file.read())
        except (SyntaxError, ValueError, tokenize.TokenError):
            continue
        if text.strip():
            yield name, text


@dataclass(frozen=True)
class Corpus:
    """Token streams; every document is followed by the end-of-text token."""

    train: Int[Tensor, " train"]
    validation: Int[Tensor, " validation"]
    """Held-out files of the standard library alone."""
    validation_grammar: Int[Tensor, " validation_grammar"]
    """Modules of the grammar from another seed than the training stream's."""


def build_corpus(
    tokenizer: PreTrainedTokenizerFast,
    *,
    library: StandardLibrary | None = None,
    grammar_share: float,
    validation_grammar_tokens: int = 100_000,
    seed: int = 0,
) -> Corpus:
    """Encode the library and enough of the grammar to be this share of the training tokens.

    The documents of both kinds are shuffled together by ``seed``, which also draws the grammar.
    Raises ``ValueError`` for a share that is not in [0, 1).
    """
    if not 0 <= grammar_share < 1:
        raise ValueError(f"got grammar_share={grammar_share}, expected 0 <= grammar_share < 1")
    library = library or StandardLibrary.load()
    encode = _Encoder(tokenizer)
    train = encode(list(library.train.values()))
    grammar_tokens = sum(map(len, train)) * grammar_share / (1 - grammar_share)
    documents = train + encode.grammar(round(grammar_tokens), seed=seed)
    random.Random(seed).shuffle(documents)
    validation_grammar = encode.grammar(validation_grammar_tokens, seed=seed + _VALIDATION_SEED)
    return Corpus(
        train=_stream(documents),
        validation=_stream(encode(list(library.validation.values()))),
        validation_grammar=_stream(validation_grammar),
    )


def train_tokenizer(
    library: StandardLibrary, *, vocab_size: int = 1024, grammar_share: float = 0.3, seed: int = 0
) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE from the training files and some of the grammar.

    Tests are left out, and the grammar's share of the characters is smaller than in the corpus, so
    that common words of real code become tokens, and not ``.assertEqual`` or words of the pool.
    """
    texts = [text for name, text in library.train.items() if not _is_test(name)]
    characters = round(sum(map(len, texts)) * grammar_share / (1 - grammar_share))
    return train_bpe(
        [*texts, *generate_modules(characters=characters, seed=seed)], vocab_size=vocab_size
    )


class _Encoder:
    """Documents to lists of tokens, each with end-of-text behind it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        # The library's own object encodes batches several times faster than its wrapper.
        self._tokenizer = tokenizer.backend_tokenizer
        self._end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        documents = []
        for start in range(0, len(texts), _BATCH):
            batch = self._tokenizer.encode_batch_fast(
                list(texts[start : start + _BATCH]), add_special_tokens=False
            )
            documents += [[*encoding.ids, self._end] for encoding in batch]
        return documents

    def grammar(self, tokens: int, *, seed: int) -> list[list[int]]:
        """Modules of the grammar with `tokens` tokens or more in total."""
        documents: list[list[int]] = []
        modules = generate_modules(seed=seed)
        total = 0
        while total < tokens:
            for document in self(list(islice(modules, _BATCH))):
                if total < tokens:
                    documents.append(document)
                    total += len(document)
        return documents


def _stream(documents: list[list[int]]) -> Int[Tensor, " tokens"]:
    parts = [torch.tensor(document, dtype=torch.int64) for document in documents]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
