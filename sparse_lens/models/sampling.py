"""The choice of the next token, and the tokens that end a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the defaults draw from the model's own distribution.

    Raises:
        ValueError: for a value out of range.
    """

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely token."""

    top_k: int | None = None
    """Draw from the `top_k` most likely tokens."""

    top_p: float | None = None
    """Draw from the most likely tokens that together reach this probability."""

    freq_penalty: float = 0.0
    """Subtracted from a token's logit for each time that it has occurred."""

    generator: torch.Generator | None = None
    """Source of randomness; torch's global one when not given."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}.")
        if self.top_k is not None and self.top_p is not None:
            raise ValueError("give top_k or top_p, not both.")

    def draw(
        self,
        logits: Float[Tensor, "batch vocab"],
        tokens: Int[Tensor, "batch pos"],
        real: Bool[Tensor, "batch pos"],
    ) -> Int[Tensor, " batch"]:
        """A next token for each row; `real` is false where the tokens before it are padding."""
        if self.temperature == 0:
            return logits.argmax(-1)
        logits = logits.float() / self.temperature
        if self.freq_penalty:
            counts = torch.zeros_like(logits).scatter_add_(1, tokens, real.to(logits.dtype))
            logits = logits - self.freq_penalty * counts
        if self.top_k is not None:
            threshold = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]  # [batch, 1]
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        elif self.top_p is not None:
            probabilities, order = logits.softmax(-1).sort(descending=True)
            # A token is dropped when more likely ones already exceed top_p.
            beyond = probabilities.cumsum(-1) - probabilities > self.top_p
            dropped = torch.zeros_like(beyond).scatter(1, order, beyond)
            logits = logits.masked_fill(dropped, -torch.inf)
        drawn = torch.multinomial(logits.softmax(-1), 1, True, generator=self.generator)
        return drawn[:, 0]


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Stop:
    """Tokens that end a sequence, and the one that follows in a row that has ended."""

    tokens: tuple[int, ...]
    padding: int


def stop_at(tokenizer: Any, eos_token_id: int | Sequence[int] | None) -> Stop:
    """Where to stop: at the given tokens, or at the tokenizer's end-of-text.

    Raises:
        ValueError: when there are neither.
    """
    end_of_text = None if tokenizer is None else tokenizer.eos_token_id
    if eos_token_id is None:
        eos_token_id = end_of_text
    if eos_token_id is None:
        raise ValueError(
            "stop_at_eos needs a tokenizer with an end-of-text token, or eos_token_id; pass one, "
            "or stop_at_eos=False."
        )
    if isinstance(eos_token_id, int):
        return Stop((eos_token_id,), eos_token_id)
    tokens = tuple(eos_token_id)
    if not tokens:
        raise ValueError("eos_token_id is empty; pass stop_at_eos=False to go on to the end.")
    return Stop(tokens, tokens[0] if end_of_text is None else end_of_text)
