"""Prompts as tokens, where the tokenizer leaves them aligned."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.contrast import Contrast


class Misfit(ValueError):
    """Why a prompt cannot be used with this tokenizer."""


@dataclass(frozen=True)
class EncodedContrast:
    """The tokens of a prompt and its corrupted version, of the same number, and of its answers."""

    clean: list[int]
    corrupted: list[int]
    answers: list[int]
    distractors: list[int]


class Encoder:
    """A tokenizer, asked whether prompts are aligned in it and their answers single tokens.

    Args:
        prepend_bos: begin each prompt with the tokenizer's token for that.

    Raises:
        ValueError: when the tokenizer has no token to pad with, or none to begin with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, prepend_bos: bool = False):
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if pad is None:
            raise ValueError(
                "the tokenizer has neither a padding nor an end-of-text token to make prompts "
                "equally long with; set tokenizer.pad_token."
            )
        if prepend_bos and tokenizer.bos_token_id is None:
            raise ValueError(
                "prepend_bos=True takes a tokenizer with a token to begin with; set "
                "tokenizer.bos_token, or pass prepend_bos=False."
            )
        self.pad = int(pad)  # type: ignore[arg-type]
        self._first: list[int] = [tokenizer.bos_token_id] if prepend_bos else []  # type: ignore[list-item]
        self._tokenizer = tokenizer
        self._pieces: dict[str, list[int]] = {}

    def text(self, tokens: list[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(tokens))

    def encode(self, contrast: Contrast, spec: Spec) -> EncodedContrast:
        """The tokens of a prompt.

        Raises:
            Misfit: when it is not aligned, or an answer is not the one next token.
        """
        ids = self.check_candidates((*contrast.answers, *contrast.distractors))
        answers, distractors = ids[: len(contrast.answers)], ids[len(contrast.answers) :]
        clean, corrupted, answered = self._encode(
            [contrast.clean, contrast.corrupted, contrast.clean + contrast.answers[0]]
        )
        if len(clean) != len(corrupted):
            raise Misfit("a prompt and its corrupted version have different numbers of tokens")
        least, most = spec.min_tokens, spec.max_tokens
        if not least <= len(clean) <= most:
            raise Misfit(f"a prompt has fewer than {least} or more than {most} tokens")
        differing = sum(a != b for a, b in zip(clean, corrupted, strict=True))
        if not 1 <= differing <= spec.deciding_tokens:
            raise Misfit(f"a prompt and its corrupted version differ in {differing} tokens")
        if answered != [*clean, answers[0]]:
            raise Misfit(f"{contrast.answers[0]!r} merges with the end of the prompt")
        for part in contrast.whole:
            if self._single(part, "the word") not in clean:
                raise Misfit(f"{part!r} is not a token of its own in the prompt")
        return EncodedContrast(
            [*self._first, *clean], [*self._first, *corrupted], answers, distractors
        )

    def check_candidates(self, texts: tuple[str, ...]) -> list[int]:
        """The tokens of answers and distractors.

        Raises:
            Misfit: when one is not a single token, or two are the same.
        """
        owner: dict[int, str] = {}
        for text in texts:
            token = self._single(text, "the answer")
            if token in owner:
                raise Misfit(f"the answers {owner[token]!r} and {text!r} are the same token")
            owner[token] = text
        return list(owner)

    def _single(self, text: str, what: str) -> int:
        if text not in self._pieces:
            self._pieces[text] = self._tokens_of(text)
        pieces = self._pieces[text]
        if len(pieces) != 1:
            split = [self.text([piece]) for piece in pieces]
            raise Misfit(f"{what} {text!r} is not one token but {split}")
        return pieces[0]

    def _tokens_of(self, text: str) -> list[int]:
        """Alone, or after a line's end for tokenizers that put a space before every text."""
        alone, end, after_end = self._encode([text, "\n", "\n" + text])
        if len(alone) > 1 and after_end[: len(end)] == end and len(after_end) == len(end) + 1:
            return after_end[len(end) :]
        return alone

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]
