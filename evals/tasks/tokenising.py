"""From text templates to token prompts: every pair is checked against the tokenizer."""

import random
from collections import Counter

import torch
from transformers import PreTrainedTokenizerFast

from sparse_lens.evals.tasks.encoding import EncodedPair, Misfit, PairEncoder
from sparse_lens.evals.tasks.task_spec import TaskSpec
from sparse_lens.task import Prompts, Task

_MISSES_IN_A_ROW = 2000
"""Draws without a new pair after which no more are expected to fit."""


def build_task(
    spec: TaskSpec,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int = 0,
    n_train: int = 128,
    n_validation: int = 64,
    n_held_out: int = 128,
) -> Task:
    """The prompts of a task in one tokenizer's tokens, in three splits.

    Rows 2i and 2i+1 are the two members of a pair, each the corrupted prompt of the other. The
    sizes count prompts, so they are even; a split of size 0 is left out. A split depends on the
    seed and its own size alone.

    Raises:
        ValueError: when the two answers are not single distinct tokens, when the tokenizer
            leaves too few aligned pairs, when splits share a prompt, or a size is odd.
    """
    encoder = PairEncoder(tokenizer)
    if "$" not in "".join(spec.answers):
        _require_answers(spec, encoder)
    sizes = {"train": n_train, "validation": n_validation, "held_out": n_held_out}
    drawn: dict[str, list[EncodedPair]] = {}
    for split, size in sizes.items():
        if size < 0 or size % 2 or (split == "train" and size == 0):
            raise ValueError(
                f"task {spec.name!r}: {size} {split} prompts asked for; prompts come in pairs, "
                "so pass a positive even number (0 leaves out validation or held_out)."
            )
        drawn[split] = _draw_pairs(spec, encoder, split, size // 2, seed)
    _require_disjoint(spec, encoder, drawn)
    prompts = {split: _to_prompts(pairs, encoder.pad) for split, pairs in drawn.items() if pairs}
    return Task(
        spec.name,
        train=prompts["train"],
        validation=prompts.get("validation"),
        held_out=prompts.get("held_out"),
    )


def _require_answers(spec: TaskSpec, encoder: PairEncoder) -> None:
    """Refuses the tokenizer at once, where the answers do not depend on the pair."""
    try:
        encoder.check_answers(*spec.answers)
    except Misfit as misfit:
        raise ValueError(f"task {spec.name!r} cannot be put to this tokenizer: {misfit}.") from None


def _draw_pairs(
    spec: TaskSpec, encoder: PairEncoder, split: str, n: int, seed: int
) -> list[EncodedPair]:
    """As many different pairs as asked for, or an error that says what most draws failed on."""
    rng = random.Random(f"{seed}/{spec.name}/{split}")
    seen: set[str] = set()
    pairs: list[EncodedPair] = []
    misfits: Counter[str] = Counter()
    misses = 0
    while len(pairs) < n and misses < _MISSES_IN_A_ROW:
        pair = spec.draw(rng, split)
        try:
            if pair.clean in seen or pair.corrupted in seen:
                raise Misfit("the pair was drawn before")
            pairs.append(encoder.encode(pair, spec.deciding_tokens))
        except Misfit as misfit:
            misfits[str(misfit)] += 1
            misses += 1
        else:
            seen |= {pair.clean, pair.corrupted}
            misses = 0
    if len(pairs) < n:
        reasons = "; ".join(f"{why} ({times} times)" for why, times in misfits.most_common(3))
        raise ValueError(
            f"task {spec.name!r} found {len(pairs)} of the {n} {split} pairs asked for that fit "
            f"this tokenizer. Most often: {reasons}. Ask for fewer, or use a tokenizer that keeps "
            "these words whole."
        )
    return pairs


def _require_disjoint(
    spec: TaskSpec, encoder: PairEncoder, drawn: dict[str, list[EncodedPair]]
) -> None:
    """Refuses a prompt that was drawn in two splits."""
    owner: dict[tuple[int, ...], str] = {}
    for split, pairs in drawn.items():
        for tokens in (member for pair in pairs for member in (pair.clean, pair.corrupted)):
            first = owner.setdefault(tuple(tokens), split)
            if first != split:
                raise ValueError(
                    f"task {spec.name!r}: splits {first!r} and {split!r} both drew "
                    f"{encoder.text(tokens)!r}; make their templates differ in more than letters."
                )


def _to_prompts(pairs: list[EncodedPair], pad: int) -> Prompts:
    """Both members of every pair as the clean one, padded on the right."""
    width = max(len(pair.clean) for pair in pairs)
    clean = torch.full((2 * len(pairs), width), pad)
    for row, pair in enumerate(pairs):
        clean[2 * row, : len(pair.clean)] = torch.tensor(pair.clean)
        clean[2 * row + 1, : len(pair.corrupted)] = torch.tensor(pair.corrupted)
    answers = torch.tensor([token for pair in pairs for token in (pair.answer, pair.distractor)])
    partner = torch.arange(2 * len(pairs)) ^ 1
    return Prompts(
        clean=clean,
        corrupted=clean[partner],
        answers=answers,
        distractors=answers[partner],
        lengths=torch.tensor([len(pair.clean) for pair in pairs]).repeat_interleave(2),
    )
