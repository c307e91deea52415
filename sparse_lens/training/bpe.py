"""Training of a byte-level BPE tokenizer for Python code.

Text is cut by the regular expression of the released weight-sparse models (Gao et al. 2025,
arXiv 2511.13653) and then merged. The merges themselves are learnt from a finer cut, in which
quotation marks, brackets and colons stand alone except at the end of a line. So ``{"a"`` is always
followed by ``:``, ``["a"`` by ``,`` and ``async def a`` by ``(`` as tokens of their own, whatever
comes next, while `` ")\\n`` and ``]]\\n`` are single tokens.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from string import ascii_lowercase

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sparse_lens.models.tokenizer import make_tokenizer

_LEARNING_SPLIT = (
    r"[ ._]?\p{L}+|\p{N}{1,3}|[\"'][)\]]\n|\]\]\n|[)\]:,]\n| \[\[|\"\"\"|'''| ?__?"
    r"| ?[=+\-*/<>!%&|^]+| ?[^\s\p{L}\p{N}]|\n+|\s+(?!\S)|\s+"
)
REQUIRED_TOKENS = (
    *('")\n', "')\n", '"]\n', "']\n", "]\n", "]]\n", ")\n", ":\n", "\n", ",", ":", "("),
    *(" in", " as", " import", " ==", " =", " +=", ".add", " [", " [[", " {", " set", " str"),
    *(" lambda", " def", " for", " while", " return", " and", " with", " from", " if"),
    *(" name", " value", " data"),
    # At the margin there is no space before these.
    *("while", "for", "def", "return", "with", "from", "import", "class", "async", "if", "self"),
    # A word of several tokens then begins with its first letter, and not with a bare space.
    *(f" {letter}" for letter in ascii_lowercase),
)


def train_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int = 1024,
    required: Sequence[str] = REQUIRED_TOKENS,
    emphasis: int = 2000,
) -> PreTrainedTokenizerFast:
    """Learn merges until the vocabulary, end-of-text included as its last entry, is full.

    The required strings count as if they occurred so many times more often than they do. Raises
    ``ValueError`` when the texts are too few to fill the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LEARNING_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
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
    return make_tokenizer(learnt["vocab"], [tuple(merge) for merge in learnt["merges"]])


def missing_tokens(
    tokenizer: PreTrainedTokenizerFast, required: Iterable[str] = REQUIRED_TOKENS
) -> list[str]:
    """Those of the required strings that the tokenizer cuts into several tokens."""
    return [text for text in required if len(tokenizer.encode(text)) != 1]
