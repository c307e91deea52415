"""Tasks as token prompts, drawn from their specs and checked against the tokenizer."""

import random
from collections import Counter

import torch
from transformers import PreTrainedTokenizerFast

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.encoding import EncodedContrast, Encoder, Misfit
from sparse_lens.evals.tasks.splits import USUAL_SIZES
from sparse_lens.task import Prompts, Task, stack_sets

_MAX_MISSES = 2000
"""Consecutive draws without a usable new prompt after which drawing stops."""


def build_task(
    spec: Spec,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int = 0,
    n_train: int = USUAL_SIZES.n_train,
    n_validation: int = USUAL_SIZES.n_validation,
    n_held_out: int = USUAL_SIZES.n_held_out,
    prepend_bos: bool = False,
) -> Task:
    """The prompts of a task as tokens, in three splits.

    The sizes count prompts; a split of size 0 is left out. The prompts of a split depend only on
    the seed and on the size of the split. Where prompts are drawn in pairs, rows 2i and 2i+1 are
    drawn together and the sizes are even; in a `TaskSpec` each of the two is the corrupted prompt
    of the other.

    Args:
        prepend_bos: begin each prompt with the tokenizer's beginning-of-sequence token, which
            models such as GPT-2 expect in TransformerLens: pass `model.cfg.default_prepend_bos`.

    Raises:
        ValueError: when answers are not single distinct tokens, when the tokenizer leaves too few
            aligned prompts, when splits share a prompt, or a size is odd.
    """
    encoder = Encoder(tokenizer, prepend_bos=prepend_bos)
    _require_candidates(spec, encoder)
    sizes = {"train": n_train, "validation": n_validation, "held_out": n_held_out}
    drawn: dict[str, list[EncodedContrast]] = {}
    for split, size in sizes.items():
        _require_size(spec, split, size)
        drawn[split] = _draw(spec, encoder, split, size, seed)
    _require_disjoint(spec, encoder, drawn)
    prompts = {split: _to_prompts(rows, encoder.pad) for split, rows in drawn.items() if rows}
    return Task(
        spec.name,
        train=prompts["train"],
        validation=prompts.get("validation"),
        held_out=prompts.get("held_out"),
    )


def _require_candidates(spec: Spec, encoder: Encoder) -> None:
    """Refuses a tokenizer in which answers that all prompts share are not distinct tokens."""
    try:
        encoder.check_candidates(spec.candidates)
    except Misfit as misfit:
        raise ValueError(f"task {spec.name!r} cannot be put to this tokenizer: {misfit}.") from None


def _require_size(spec: Spec, split: str, size: int) -> None:
    per_draw = spec.rows_per_draw
    if size < 0 or size % per_draw or (split == "train" and size == 0):
        expected = "a positive number" if per_draw == 1 else "a positive even number"
        raise ValueError(
            f"task {spec.name!r}: {size} {split} prompts asked for; prompts are drawn "
            f"{per_draw} at a time, so pass {expected} (0 leaves out validation or held_out)."
        )


def _draw(spec: Spec, encoder: Encoder, split: str, n: int, seed: int) -> list[EncodedContrast]:
    """`n` different prompts, or an error with the most frequent reasons why draws were rejected."""
    rng = random.Random(f"{seed}/{spec.seed_name}/{split}")
    seen: set[str] = set()
    encoded: list[EncodedContrast] = []
    misfits: Counter[str] = Counter()
    misses = 0
    while len(encoded) < n and misses < _MAX_MISSES:
        rows = spec.draw_rows(rng, split)
        try:
            if any(row.clean in seen for row in rows):
                raise Misfit("the prompt was drawn before")
            encoded += [encoder.encode(row, spec) for row in rows]
        except Misfit as misfit:
            misfits[str(misfit)] += 1
            misses += 1
        else:
            seen |= {row.clean for row in rows}
            misses = 0
    if len(encoded) < n:
        reasons = "; ".join(f"{why} ({times} times)" for why, times in misfits.most_common(3))
        raise ValueError(
            f"task {spec.name!r} found {len(encoded)} of the {n} {split} prompts asked for that "
            f"fit this tokenizer. Most often: {reasons}. Ask for fewer, or use a tokenizer that "
            "keeps these words whole."
        )
    return encoded


def _require_disjoint(
    spec: Spec, encoder: Encoder, drawn: dict[str, list[EncodedContrast]]
) -> None:
    """Refuses a prompt that was drawn in two splits."""
    split_of: dict[tuple[int, ...], str] = {}
    for split, rows in drawn.items():
        for row in rows:
            first_split = split_of.setdefault(tuple(row.clean), split)
            if first_split != split:
                raise ValueError(
                    f"task {spec.name!r}: splits {first_split!r} and {split!r} both drew "
                    f"{encoder.text(row.clean)!r}; make their templates differ in more than "
                    "letters."
                )


def _to_prompts(rows: list[EncodedContrast], pad: int) -> Prompts:
    """The prompts of a split as tensors, padded on the right."""
    width = max(len(row.clean) for row in rows)

    def padded(prompts: list[list[int]]) -> torch.Tensor:
        return torch.tensor([tokens + [pad] * (width - len(tokens)) for tokens in prompts])

    return Prompts(
        clean=padded([row.clean for row in rows]),
        corrupted=padded([row.corrupted for row in rows]),
        answers=stack_sets([row.answers for row in rows]),
        distractors=stack_sets([row.distractors for row in rows]),
        lengths=torch.tensor([len(row.clean) for row in rows]),
    )
