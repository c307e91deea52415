"""A pair of texts as tokens, where the tokenizer leaves them aligned."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from sparse_lens.evals.tasks.template import Pair

MIN_TOKENS = 12
"""Shorter prompts could stand in the training text word for word."""

MAX_TOKENS = 64


class Misfit(ValueError):
    """Why a pair cannot be used with this tokenizer."""


@dataclass(frozen=True)
class EncodedPair:
    """The tokens of both members of a pair, of the same number, and of their answers."""

    clean: list[int]
    corrupted: list[int]
    answer: int
    distractor: int


class PairEncoder:
    """A tokenizer, asked whether pairs of texts are aligned prompts in it.

    Raises:
        ValueError: when the tokenizer has no token to pad with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if pad is None:
            raise ValueError(
                "the tokenizer has neither a padding nor an end-of-text token to make prompts "
                "equally long with; set tokenizer.pad_token."
            )
        self.pad = int(pad)  # type: ignore[arg-type]
        self._tokenizer = tokenizer
        self._pieces: dict[str, list[int]] = {}

    def text(self, tokens: list[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(tokens))

    def encode(self, pair: Pair, deciding_tokens: int) -> EncodedPair:
        """The tokens of a pair.

        Raises:
            Misfit: when the pair is not aligned, or an answer is not the one next token.
        """
        answer, distractor = self.check_answers(pair.answer, pair.distractor)
        clean, corrupted, answered, misled = self._encode(
            [
                pair.clean,
                pair.corrupted,
                pair.clean + pair.answer,
                pair.corrupted + pair.distractor,
            ]
        )
        if len(clean) != len(corrupted):
            raise Misfit("the members of a pair have different numbers of tokens")
        if not MIN_TOKENS <= len(clean) <= MAX_TOKENS:
            raise Misfit(f"a prompt has fewer than {MIN_TOKENS} or more than {MAX_TOKENS} tokens")
        differing = sum(a != b for a, b in zip(clean, corrupted, strict=True))
        if not 1 <= differing <= deciding_tokens:
            raise Misfit(f"the members of a pair differ in {differing} tokens")
        for whole, prompt, text, token in (
            (answered, clean, pair.answer, answer),
            (misled, corrupted, pair.distractor, distractor),
        ):
            if whole != [*prompt, token]:
                raise Misfit(f"{text!r} merges with the end of the prompt")
        return EncodedPair(clean, corrupted, answer, distractor)

    def check_answers(self, answer: str, distractor: str) -> tuple[int, int]:
        """The ids of two answers.

        Raises:
            Misfit: when one is not a single token, or both are the same.
        """
        ids = []
        for text in (answer, distractor):
            if text not in self._pieces:
                self._pieces[text] = self._encode([text])[0]
            pieces = self._pieces[text]
            if len(pieces) != 1:
                split = [self.text([piece]) for piece in pieces]
                raise Misfit(f"the answer {text!r} is not one token but {split}")
            ids.append(pieces[0])
        if ids[0] == ids[1]:
            raise Misfit(f"the answers {answer!r} and {distractor!r} are the same token")
        return ids[0], ids[1]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]
