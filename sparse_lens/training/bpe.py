"""A byte-level BPE tokenizer for Python code, trained and kept in GPT-2's file format.

Text is cut by the regular expression of the released weight-sparse models (Gao et al. 2025,
arXiv 2511.13653) and then merged. The merges themselves are learnt from a finer cut, in which
quotation marks, brackets and colons stand alone except at the end of a line. So ``{"a"`` is always
followed by ``:``, ``["a"`` by ``,`` and ``async def a`` by ``(`` as tokens of their own, whatever
comes next, while `` ")\\n`` and ``]]\\n`` are single tokens.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
SPLIT = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LEARNING_SPLIT = (
    r"[ ._]?\p{L}+|\p{N}{1,3}|[\"'][)\]]\n|\]\]\n|[)\]:,]\n| \[\[|\"\"\"|'''| ?__?"
    r"| ?[=+\-*/<>!%&|^]+| ?[^\s\p{L}\p{N}]|\n+|\s+(?!\S)|\s+"
)
REQUIRED_TOKENS = (
    *('")\n', "')\n", '"]\n', "']\n", "]\n", "]]\n", ")\n", ":\n", "\n", ",", ":", "("),
    *(" in", " as", " import", " ==", " =", " +=", ".add", " [", " [[", " {", " set", " str"),
    *(" lambda", " def", " for", " while", " return", " and", " with", " from", " if"),
    *(" name", " value", " data"),
)


def train_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int = 1024,
    required: Sequence[str] = REQUIRED_TOKENS,
    emphasis: int = 2000,
) -> Tokenizer:
    """Learn merges until the vocabulary, end-of-text included as its last entry, is full.

    The required strings count as if they occurred so many times more often than they do. Raises
    ``ValueError`` when the texts are too few to fill the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(_LEARNING_SPLIT)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(texts, (text * emphasis for text in required)), trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    if len(learnt["vocab"]) != vocab_size - 1:
        raise ValueError(
            f"the texts gave a vocabulary of {len(learnt['vocab']) + 1}, expected {vocab_size}; "
            "pass more text or a smaller vocab_size"
        )
    return assemble(learnt["vocab"], [tuple(merge) for merge in learnt["merges"]])


def assemble(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer of a vocabulary without end-of-text, which is put last, and its merges."""
    vocab = {**vocab, END_OF_TEXT: len(vocab)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(SPLIT)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def save_bpe(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Write ``encoder.json`` and ``vocab.bpe``, as GPT-2's tokenizer is kept."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = dict(sorted(model["vocab"].items(), key=lambda entry: entry[1]))
    (directory / "encoder.json").write_text(json.dumps(vocab) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (directory / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")


def missing_tokens(tokenizer: Tokenizer, required: Iterable[str] = REQUIRED_TOKENS) -> list[str]:
    """Those of the required strings that the tokenizer cuts into several tokens."""
    return [text for text in required if len(tokenizer.encode(text).ids) != 1]


def _pre_tokenizer(split: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
