"""Tasks of one's own, and refusals with a reason of what does not fit a tokenizer."""

import pytest
from transformers import PreTrainedTokenizerFast

from sparse_lens.evals import tasks
from sparse_lens.evals.tasks import Splits, TaskSpec
from tests.evals.task_texts import PAIRED


@pytest.mark.parametrize("name", PAIRED)
def test_a_tokenizer_without_the_answers_is_refused(name, bytes_tokenizer):
    reason = rf"task '{name}'.*the answer '.*' is not one token but \["
    with pytest.raises(ValueError, match=reason):
        tasks.build(name, bytes_tokenizer)


def spec_of(statement: str, answers: tuple[str, str]) -> TaskSpec:
    """A task with one statement, told apart by its first line."""
    statements = Splits(
        *((f"    ${letter} = $1\n{statement}",) for letter in ("m", "n", "o")),
    )
    return TaskSpec(name="mine", question="Which?", answers=answers, statements=statements)


def test_a_tokenizer_without_padding_is_refused(tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="neither a padding nor an end-of-text token"):
        tasks.build("for_while", bare)


def test_a_task_of_one_s_own(tokenizer):
    spec = spec_of("    $(while|return) $x.$a", (":\n", "\n"))
    task = tasks.build(spec, tokenizer, n_train=6, n_validation=0, n_held_out=2)
    assert task.name == "mine"
    assert (len(task.train), task.validation, len(task.split("held_out"))) == (6, None, 2)


@pytest.mark.parametrize(
    ("statement", "answers", "reason"),
    [
        (
            "    $(with|return) open($a)",
            (" as", "\n"),
            "0 of the 2 train prompts.*merges with the end",
        ),
        ("    $(with|$c =) $a", (" as", "\n"), "different numbers of tokens"),
        ("    $(async with|$c =) $a", (" as", "\n"), "differ in 2 tokens"),
        ("    $(for|while) $a", (":", ":"), "same token"),
    ],
    ids=["merges", "out of line", "differ too much", "equal answers"],
)
def test_what_does_not_fit_is_refused_with_a_reason(tokenizer, statement, answers, reason):
    with pytest.raises(ValueError, match=reason):
        tasks.build(spec_of(statement, answers), tokenizer, n_train=2)


def test_more_prompts_than_there_are_is_refused(tokenizer):
    spec = TaskSpec(
        name="few",
        question="Which?",
        answers=(":\n", "\n"),
        openings=None,
        statements=Splits(*((f"    a = {n}\n" * 6 + "    $(while|return) $a",) for n in (1, 2, 3))),
    )
    with pytest.raises(ValueError, match=r"of the 40 train prompts.*drawn before"):
        tasks.build(spec, tokenizer, n_train=40)


def test_splits_that_draw_the_same_prompt_are_refused(tokenizer):
    spec = TaskSpec(
        name="leaky",
        question="Which?",
        answers=(":\n", "\n"),
        openings=None,
        identifiers=("key", "node"),
        statements=Splits(*(("    key()\n" * 6 + f"    $(while|return) ${n}",) for n in "abc")),
    )
    with pytest.raises(ValueError, match="'train' and 'validation' both drew"):
        tasks.build(spec, tokenizer, n_train=4, n_validation=4, n_held_out=4)


@pytest.mark.parametrize("size", [0, 3, -2])
def test_odd_sizes_are_refused(tokenizer, size):
    with pytest.raises(ValueError, match="positive even number"):
        tasks.build("for_while", tokenizer, n_train=size)


def test_a_statement_without_a_choice_is_refused():
    with pytest.raises(ValueError, match=r"no \$\(first\|second\)"):
        spec_of("    return $a", (":\n", "\n"))


def test_splits_that_share_a_string_are_refused():
    with pytest.raises(ValueError, match="'train' and 'held_out' share 'a'"):
        Splits(train=("a",), validation=("b",), held_out=("a",))
    with pytest.raises(ValueError, match="'validation' is empty"):
        Splits(train=("a",), validation=(), held_out=("c",))


def test_more_letters_than_names_is_refused(tokenizer):
    spec = TaskSpec(
        name="many",
        question="Which?",
        answers=(":\n", "\n"),
        identifiers=("key", "node"),
        statements=Splits(*((f"$(while|return) $a $b $c {n}",) for n in (1, 2, 3))),
    )
    with pytest.raises(ValueError, match="2 identifiers"):
        tasks.build(spec, tokenizer, n_train=2)
