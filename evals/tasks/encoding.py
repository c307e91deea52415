"""One prompt and its corrupted version as tokens, if the tokenizer keeps them aligned."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.contrast import Contrast


class Misfit(ValueError):
    """The reason why a prompt cannot be used with a tokenizer."""


@dataclass(frozen=True)
class EncodedContrast:
    """The tokens of a prompt, of its corrupted version, which has as many, and of its answers."""

    clean: list[int]
    corrupted: list[int]
    answers: list[int]
    distractors: list[int]


class Encoder:
    """Turns prompts into tokens, and checks that they are aligned and answers single tokens.

    Args:
        prepend_bos: begin each prompt with the tokenizer's beginning-of-sequence token.

    Raises:
        ValueError: when the tokenizer has no padding token, or lacks a beginning-of-sequence token
            that was asked for.
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
        self._bos: list[int] = [tokenizer.bos_token_id] if prepend_bos else []  # type: ignore[list-item]
        self._tokenizer = tokenizer
        self._tokens_by_text: dict[str, list[int]] = {}

    def text(self, tokens: list[int]) -> str:
        """The text of tokens."""
        return str(self._tokenizer.decode(tokens))

    def encode(self, contrast: Contrast, spec: Spec) -> EncodedContrast:
        """The tokens of a prompt and its corrupted version.

        Raises:
            Misfit: when they are not aligned, or an answer is not one token that follows.
        """
        ids = self.check_candidates((*contrast.answers, *contrast.distractors))
        answers, distractors = ids[: len(contrast.answers)], ids[len(contrast.answers) :]
        clean, corrupted, clean_with_answer = self._encode(
            [contrast.clean, contrast.corrupted, contrast.clean + contrast.answers[0]]
        )
        if len(clean) != len(corrupted):
            raise Misfit("a prompt and its corrupted version have different numbers of tokens")
        if not spec.min_tokens <= len(clean) <= spec.max_tokens:
            raise Misfit(
                f"a prompt has fewer than {spec.min_tokens} or more than {spec.max_tokens} tokens"
            )
        differing = sum(a != b for a, b in zip(clean, corrupted, strict=True))
        if not 1 <= differing <= spec.deciding_tokens:
            raise Misfit(f"a prompt and its corrupted version differ in {differing} tokens")
        if clean_with_answer != [*clean, answers[0]]:
            raise Misfit(f"{contrast.answers[0]!r} merges with the end of the prompt")
        for part in contrast.whole:
            if self._single_token(part, "the word") not in clean:
                raise Misfit(f"{part!r} is not a token of its own in the prompt")
        return EncodedContrast([*self._bos, *clean], [*self._bos, *corrupted], answers, distractors)

    def check_candidates(self, texts: tuple[str, ...]) -> list[int]:
        """The tokens of answers and distractors.

        Raises:
            Misfit: when one is not a single token, or two are the same.
        """
        text_of: dict[int, str] = {}
        for text in texts:
            token = self._single_token(text, "the answer")
            if token in text_of:
                raise Misfit(f"the answers {text_of[token]!r} and {text!r} are the same token")
            text_of[token] = text
        return list(text_of)

    def _single_token(self, text: str, role: str) -> int:
        if text not in self._tokens_by_text:
            self._tokens_by_text[text] = self._tokens_of(text)
        tokens = self._tokens_by_text[text]
        if len(tokens) != 1:
            pieces = [self.text([token]) for token in tokens]
            raise Misfit(f"{role} {text!r} is not one token but {pieces}")
        return tokens[0]

    def _tokens_of(self, text: str) -> list[int]:
        """The tokens of a text by itself or, if it is one token there, after a newline.

        Some tokenizers put a space before every text, which splits what is one token elsewhere.
        """
        alone, newline, after_newline = self._encode([text, "\n", "\n" + text])
        n = len(newline)
        if len(alone) > 1 and after_newline[:n] == newline and len(after_newline) == n + 1:
            return after_newline[n:]
        return alone

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]
