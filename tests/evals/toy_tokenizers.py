"""Small tokenizers for tests: some that the tasks can be built with, and one that they cannot."""

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sparse_lens.evals import tasks
from sparse_lens.task import SPLITS

END = "<|endoftext|>"
SPLIT = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_pairs(texts: list[str], vocab_size: int, *, prefix: bool = False):
    """A byte-level BPE trained on texts; with `prefix`, it puts a space before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def suitable():
    """Trained on the prompts themselves, so that answers and names are single tokens."""
    names = (*tasks.names("python"), *tasks.names("control"))
    return byte_pairs(["f = open(path)\n" * 500, *prompts_of(names)], 1024)


def prompts_of(names: tuple[str, ...]) -> list[str]:
    """Random prompts of the tasks, each with its first answer."""
    texts = []
    for name in names:
        for split in SPLITS:
            rng = random.Random(name + split)
            for _ in range(150):
                texts += [
                    row.clean + row.answers[0] for row in tasks.spec(name).draw_rows(rng, split)
                ]
    return texts


def english(*, bos: str | None = None):
    """A tokenizer like GPT-2's, trained on prompts of the tasks in English and on numbers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    numbers = ["\n".join(f"{number:02}" for number in range(100))] * 300
    # More often than the rest, so that 1563 is the tokens 15 and 63, and not 1, 56 and 3.
    numbers += [" 11 12 13 14 15 16 17"] * 3000
    tokenizer.train_from_iterator(numbers + prompts_of(tasks.names("language")), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=bos)


def without_merges():
    """A tokenizer of single bytes, in which every answer is several tokens."""
    return byte_pairs([], 257, prefix=True)
