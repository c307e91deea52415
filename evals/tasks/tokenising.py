"""From text templates to token prompts: every prompt is checked against the tokenizer."""

import random
from collections import Counter

import torch
from transformers import PreTrainedTokenizerFast

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.encoding import EncodedContrast, Encoder, Misfit
from sparse_lens.evals.tasks.splits import USUAL_SIZES
from sparse_lens.task import Prompts, Task, stack_sets

_MISSES_IN_A_ROW = 2000
"""Draws without a new prompt after which no more are expected to fit."""


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
    """The prompts of a task in one tokenizer's tokens, in three splits.

    The sizes count prompts; a split of size 0 is left out. A split depends on the seed and its
    own size alone. Where prompts are drawn in pairs, rows 2i and 2i+1 are drawn together and the
    sizes are even; those of a `TaskSpec` are each the corrupted prompt of the other.

    Args:
        prepend_bos: begin each prompt with the tokenizer's token for that, which models such as
            GPT-2 expect in TransformerLens: pass `model.cfg.default_prepend_bos`.

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
    """Refuses the tokenizer at once, where the answers do not depend on the prompt."""
    try:
        encoder.check_candidates(spec.candidates)
    except Misfit as misfit:
        raise ValueError(f"task {spec.name!r} cannot be put to this tokenizer: {misfit}.") from None


def _require_size(spec: Spec, split: str, size: int) -> None:
    together = spec.rows_per_draw
    if size < 0 or size % together or (split == "train" and size == 0):
        how = "a positive number" if together == 1 else "a positive even number"
        raise ValueError(
            f"task {spec.name!r}: {size} {split} prompts asked for; prompts are drawn "
            f"{together} at a time, so pass {how} (0 leaves out validation or held_out)."
        )


def _draw(spec: Spec, encoder: Encoder, split: str, n: int, seed: int) -> list[EncodedContrast]:
    """As many different prompts as asked for, or an error that says what most draws failed on."""
    rng = random.Random(f"{seed}/{spec.seed_name}/{split}")
    seen: set[str] = set()
    found: list[EncodedContrast] = []
    misfits: Counter[str] = Counter()
    misses = 0
    while len(found) < n and misses < _MISSES_IN_A_ROW:
        rows = spec.draw_rows(rng, split)
        try:
            if any(row.clean in seen for row in rows):
                raise Misfit("the prompt was drawn before")
            found += [encoder.encode(row, spec) for row in rows]
        except Misfit as misfit:
            misfits[str(misfit)] += 1
            misses += 1
        else:
            seen |= {row.clean for row in rows}
            misses = 0
    if len(found) < n:
        reasons = "; ".join(f"{why} ({times} times)" for why, times in misfits.most_common(3))
        raise ValueError(
            f"task {spec.name!r} found {len(found)} of the {n} {split} prompts asked for that fit "
            f"this tokenizer. Most often: {reasons}. Ask for fewer, or use a tokenizer that keeps "
            "these words whole."
        )
    return found


def _require_disjoint(
    spec: Spec, encoder: Encoder, drawn: dict[str, list[EncodedContrast]]
) -> None:
    """Refuses a prompt that was drawn in two splits."""
    owner: dict[tuple[int, ...], str] = {}
    for split, rows in drawn.items():
        for row in rows:
            first = owner.setdefault(tuple(row.clean), split)
            if first != split:
                raise ValueError(
                    f"task {spec.name!r}: splits {first!r} and {split!r} both drew "
                    f"{encoder.text(row.clean)!r}; make their templates differ in more than "
                    "letters."
                )


def _to_prompts(rows: list[EncodedContrast], pad: int) -> Prompts:
    """Padded on the right."""
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
