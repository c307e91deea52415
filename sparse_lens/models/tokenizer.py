"""Byte-level BPE tokenizers in GPT-2's format of two files, in which sparse GPTs have theirs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence
from transformers import PreTrainedTokenizerFast

VOCABULARY_FILE = "encoder.json"
MERGES_FILE = "vocab.bpe"
END_OF_TEXT = "<|endoftext|>"

SPLIT_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Matches the pieces of text that tokens never cross, as in tinypython_2k."""

_VERSION_LINE = "#version"


def load_tokenizer(directory: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a directory's `encoder.json` and `vocab.bpe`.

    It prepends nothing, pads on the right, and goes into `HookedTransformer.set_tokenizer`
    without network access. `<|endoftext|>` is beginning, end and padding; when the files do
    not name it, it takes the id after the last one (2047 in tinypython_2k).

    Raises:
        FileNotFoundError: when one of the two files is missing.
        ValueError: when one of them is malformed, or they do not belong together.
    """
    directory = Path(directory)
    vocabulary = _read_vocabulary(_existing(directory / VOCABULARY_FILE))
    merges = _read_merges(_existing(directory / MERGES_FILE))
    try:
        return make_tokenizer(vocabulary, merges)
    except ValueError as error:
        raise ValueError(
            f"{directory}: {error} Fetch or save {VOCABULARY_FILE} and {MERGES_FILE} again, both "
            "from one tokenizer."
        ) from error


def make_tokenizer(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> PreTrainedTokenizerFast:
    """The tokenizer of a vocabulary and of merges, best first, in GPT-2's byte letters.

    Raises:
        ValueError: when two tokens share an id, or a merge joins or makes an unknown token.
    """
    vocabulary = dict(vocabulary)
    _check(vocabulary, merges)
    vocabulary.setdefault(END_OF_TEXT, max(vocabulary.values()) + 1)
    # Bytes for which a vocabulary has no letter become end-of-text; without an unknown token the
    # library drops them in silence.
    backend = Tokenizer(BPE(vocab=vocabulary, merges=list(merges), unk_token=END_OF_TEXT))
    backend.pre_tokenizer = make_pre_tokenizer()
    backend.decoder = ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        # Not the folder: TransformerLens reads meaning into words found in this name.
        name_or_path="sparse-gpt",
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    # TransformerLens looks this up, and unless it is true loads the tokenizer anew from
    # `name_or_path`, over the network. Set here, after construction, it changes nothing else:
    # passed to the constructor it would prepend end-of-text to every text.
    tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer


def make_pre_tokenizer() -> PreTokenizer:
    """Splits text by `SPLIT_PATTERN`, then spells it in byte letters."""
    return PreTokenizerSequence(
        [
            Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: str | Path) -> None:
    """Write `encoder.json` and `vocab.bpe`, from which `load_tokenizer` makes the same tokenizer.

    Raises:
        ValueError: when these two files cannot describe the tokenizer.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    _check_describable(state, added)
    vocabulary = state["model"]["vocab"] | added
    merges = [" ".join(pair) for pair in state["model"]["merges"]]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    by_id = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    (directory / VOCABULARY_FILE).write_text(json.dumps(by_id), encoding="utf-8")
    lines = [f"{_VERSION_LINE}: 0.2", *merges, ""]
    (directory / MERGES_FILE).write_text("\n".join(lines), encoding="utf-8", newline="\n")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}; a tokenizer is two files, {VOCABULARY_FILE} and "
            f"{MERGES_FILE}, in GPT-2's format."
        )
    return path


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); fetch or save it again.") from error


def _read_vocabulary(path: Path) -> dict[str, int]:
    try:
        vocabulary = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch or save it again.") from error
    if (
        not isinstance(vocabulary, dict)
        or not vocabulary
        or not all(type(token_id) is int and token_id >= 0 for token_id in vocabulary.values())
    ):
        raise ValueError(f"{path} must hold one JSON object from tokens to ids (integers >= 0).")
    return vocabulary


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    # Not splitlines: it also breaks at characters that may stand in a token.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line or (number == 1 and line.startswith(_VERSION_LINE)):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ValueError(
                f"{path}, line {number}: expected two tokens with a space between, got {line!r}."
            )
        merges.append((parts[0], parts[1]))
    return merges


def _check(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
    if not vocabulary:
        raise ValueError("the vocabulary is empty.")
    token_of: dict[int, str] = {}
    for token, token_id in vocabulary.items():
        if token_of.setdefault(token_id, token) != token:
            raise ValueError(f"tokens {token_of[token_id]!r} and {token!r} share id {token_id}.")
    for number, (left, right) in enumerate(merges, start=1):
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise ValueError(
                    f"merge {number}, {left!r} with {right!r}, needs {token!r}, "
                    "which is not in the vocabulary."
                )


def _check_describable(state: dict[str, Any], added: dict[str, int]) -> None:
    model = state["model"]
    if model["type"] != "BPE":
        raise ValueError(f"only byte-level BPE has merges to save, got a {model['type']} model.")
    reference = json.loads(make_tokenizer({END_OF_TEXT: 0}, []).backend_tokenizer.to_str())
    parts = ("normalizer", "pre_tokenizer", "decoder")
    different = [k for k in parts if state[k] != reference[k]]
    options = ("dropout", "byte_fallback", "ignore_merges")
    different += [k for k in options if model.get(k) != reference["model"].get(k)]
    # None and "" mean the same to the library here.
    affixes = ("continuing_subword_prefix", "end_of_word_suffix")
    different += [k for k in affixes if model.get(k)]
    different += [f"added token {t!r}" for t in sorted(added) if t != END_OF_TEXT]
    if different:
        raise ValueError(
            f"{VOCABULARY_FILE} and {MERGES_FILE} cannot describe this tokenizer: it has its own "
            f"{', '.join(different)}. Build it with `make_tokenizer`, or use `save_pretrained`."
        )
