"""An n-gram model of a training text, which must not be able to solve a task."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from sparse_lens.task import Prompts

_BACK_OFF = 0.4


class NGramModel:
    """Relative frequencies with stupid back-off, "Large Language Models in Machine Translation".

    Brants et al. 2007, equation 5: the frequency of a token after the longest context it was
    seen in, times 0.4 for every token the context had to be shortened by.

    An n-gram is numbered by its index in a sorted list of (number of its first n-1 tokens, last
    token), which is exact for any size of the vocabulary.
    """

    def __init__(self, tokens: Int[Tensor, " stream"], *, order: int = 5):
        stream = tokens.cpu().numpy().astype(np.int64)  # [stream]
        if order < 1 or len(stream) < order:
            raise ValueError(
                f"an n-gram model of order {order} needs order >= 1 and at least that many "
                f"tokens, got {len(stream)}; pass a longer text or a lower order."
            )
        self.order = order
        self._vocabulary = int(stream.max()) + 1
        self._keys: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        prefixes = np.zeros(len(stream), dtype=np.int64)
        for n in range(1, order + 1):
            # prefixes[i] is the number of the (n-1)-gram that starts at i.
            codes = prefixes[: len(stream) - n + 1] * self._vocabulary + stream[n - 1 :]
            keys, prefixes, counts = np.unique(codes, return_inverse=True, return_counts=True)
            self._keys.append(keys)
            self._counts.append(counts)

    def scores(
        self, contexts: Int[np.ndarray, "n k"], tokens: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Back-off scores of next tokens.

        Args:
            contexts: the k = order - 1 tokens before each, -1 before the start of the text.
        """
        scores = np.zeros(len(tokens))
        # From the shortest context to the longest: longer ones that were seen replace the score.
        for n_context in range(contexts.shape[1] + 1):
            context = contexts[:, contexts.shape[1] - n_context :]  # [n, n_context]
            prefix = self._number(context)
            ngram = self._look_up(prefix, tokens, n_context)
            if n_context == 0:
                prefix_count = np.full(len(tokens), self._counts[0].sum())
            else:
                prefix_count = np.where(prefix >= 0, self._counts[n_context - 1][prefix], 1)
            seen = ngram >= 0
            frequency = np.where(seen, self._counts[n_context][ngram], 0) / prefix_count
            scores = np.where(seen, frequency, _BACK_OFF * scores)
        return scores

    def two_way_accuracy(self, prompts: Prompts) -> float:
        """How often the answer scores above the distractor; a tie counts one half.

        Raises:
            ValueError: when a prompt has several answers, or no distractor.
        """
        if prompts.distractors is None or prompts.answers.ndim + prompts.distractors.ndim > 2:
            raise ValueError("an n-gram model compares one answer with one distractor a prompt.")
        contexts = self._contexts(prompts)
        answer = self.scores(contexts, prompts.answers.cpu().numpy())
        distractor = self.scores(contexts, prompts.distractors.cpu().numpy())
        return float(np.mean((answer > distractor) + 0.5 * (answer == distractor)))

    def _contexts(self, prompts: Prompts) -> np.ndarray:
        """The tokens before each answer, [n, order - 1]."""
        ends = prompts.answer_positions.cpu().numpy()
        columns = ends[:, None] + np.arange(2 - self.order, 1)
        rows = np.arange(len(prompts))[:, None]
        return np.where(columns >= 0, prompts.clean.cpu().numpy()[rows, columns], -1)

    def _number(self, context: np.ndarray) -> np.ndarray:
        """The number of each row's n-gram, -1 where it was never seen."""
        number = np.zeros(len(context), dtype=np.int64)
        for n, column in enumerate(context.T):
            number = self._look_up(number, column, n)
        return number

    def _look_up(self, prefixes: np.ndarray, tokens: np.ndarray, n: int) -> np.ndarray:
        """The number of each (n+1)-gram, given that of its first n tokens; -1 if never seen."""
        keys = self._keys[n]
        codes = prefixes * self._vocabulary + tokens
        numbers = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
        is_valid = (prefixes >= 0) & (tokens >= 0) & (tokens < self._vocabulary)
        return np.where(is_valid & (keys[numbers] == codes), numbers, -1)
