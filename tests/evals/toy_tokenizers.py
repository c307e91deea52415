"""Small tokenizers for tests: one that suits the tasks, and some that do not."""

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sparse_lens.evals import tasks

END = "<|endoftext|>"
SPLIT = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_pairs(texts: list[str], vocab_size: int, *, prefix: bool = False):
    """A byte-level BPE learnt from texts; with `prefix`, a space is put before every piece."""
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
    """Learnt from the prompts themselves, so that answers and names are whole."""
    texts = ["f = open(path)\n" * 500]
    for name in tasks.names():
        for split in ("train", "validation", "held_out"):
            rng = random.Random(name + split)
            for _ in range(150):
                pair = tasks.spec(name).draw(rng, split)
                texts += [pair.clean + pair.answer, pair.corrupted + pair.distractor]
    return byte_pairs(texts, 1024)


def without_merges():
    """Every answer is two bytes or more."""
    return byte_pairs([], 257, prefix=True)
