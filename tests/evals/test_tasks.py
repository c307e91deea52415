"""Every task: aligned pairs, disjoint splits, names from its pool."""

import keyword
import re

import pytest
import torch

from sparse_lens.evals import tasks
from sparse_lens.evals.tasks import Splits
from sparse_lens.evals.tasks.families.variables import SHORT_NAMES
from sparse_lens.task import SPLITS
from tests.evals.task_texts import PAIRED, SIZES, VERBS, spec_named, texts

# What Python code may hold besides names of our own: the language's words and these.
FIXED_NAMES = {"current"}  # of set_or_string_fixedvarname
LANGUAGE = {*keyword.kwlist, "self", "init", "print", "open", "len", "set", "str"}
LANGUAGE |= {"ValueError", "TypeError", "KeyError", "of", "by"}


@pytest.fixture(scope="module", params=PAIRED)
def task(request, tokenizer):
    return tasks.build(request.param, tokenizer, **SIZES)


def test_the_tasks():
    assert tasks.names() == (
        *("single_double_quote", "bracket_counting", "bracket_brace", "set_or_string"),
        *("set_or_string_fixedvarname", "while_return_true", "lambda_func", "for_while"),
        *(
            "indent_for",
            "with_as",
            "var_swap",
            "if_equals",
            "if_ternary",
            "var_if",
            "class_init",
            "import_from",
        ),
        *("final_kwarg", "with_open", "else_elif", "fstring_brace", "enumerate_range"),
    )
    assert tasks.names("language") == (
        *("indirect_object", "greater_than", "gendered_pronoun", "docstring"),
        *("boolean_instruction", "boolean_few_shot"),
    )
    assert tasks.names("control") == ("nonsense",)
    groups = [name for group in tasks.GROUPS for name in tasks.names(group)]
    assert list(tasks.names("all")) == groups
    assert len(set(groups)) == len(groups)
    for name in groups:
        assert tasks.spec(name).name == name
        assert tasks.spec(name).question.endswith("?")


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(ValueError, match=r"no task 'quotes'.*single_double_quote"):
        tasks.spec("quotes")
    with pytest.raises(ValueError, match=r"no group of tasks 'prose'; there are python, language"):
        tasks.names("prose")


def test_sizes_count_prompts(task):
    assert [len(task.split(split)) for split in SPLITS] == [48, 32, 48]


def test_rows_are_pairs_that_differ_where_the_answer_is_decided(task):
    limit = tasks.spec(task.name).deciding_tokens
    for split in SPLITS:
        prompts = task.split(split)
        differing = (prompts.clean != prompts.corrupted).sum(-1)
        assert differing.min() >= 1
        assert differing.max() <= limit
        for row in range(0, len(prompts), 2):
            assert torch.equal(prompts.clean[row], prompts.corrupted[row + 1])
            assert torch.equal(prompts.clean[row + 1], prompts.corrupted[row])
            assert prompts.lengths[row] == prompts.lengths[row + 1]
            assert prompts.answers[row] == prompts.distractors[row + 1]
            assert prompts.answers[row + 1] == prompts.distractors[row]


def test_prompts_are_neither_short_nor_long_and_padded_on_the_right(task, tokenizer):
    for split in SPLITS:
        prompts = task.split(split)
        assert prompts.lengths.min() >= 12
        assert prompts.lengths.max() <= 64
        for row, length in zip(prompts.clean, prompts.lengths, strict=True):
            assert (row[length:] == tokenizer.eos_token_id).all()
            assert (row[:length] != tokenizer.eos_token_id).all()


def test_the_answer_is_the_token_that_follows(task, tokenizer):
    for split in SPLITS:
        prompts = task.split(split)
        for row, text in enumerate(texts(prompts, tokenizer)):
            answer = tokenizer.decode([prompts.answers[row]])
            length = int(prompts.lengths[row])
            expected = [*prompts.clean[row, :length].tolist(), int(prompts.answers[row])]
            assert tokenizer(text + answer, add_special_tokens=False)["input_ids"] == expected


def test_answers_are_the_ones_the_task_names(task, tokenizer):
    answers = spec_named(task.name).answers
    prompts = task.held_out
    if "$" in "".join(answers):
        pool = spec_named(task.name).identifiers
        known = {" " + name for name in (pool.held_out if isinstance(pool, Splits) else pool)}
        assert {tokenizer.decode([token]) for token in prompts.answers} <= known
    else:
        assert tokenizer.decode(prompts.answers[::2].unique()) == answers[0]
        assert tokenizer.decode(prompts.answers[1::2].unique()) == answers[1]


def test_the_seed_decides(task, tokenizer):
    again = tasks.build(task.name, tokenizer, **SIZES)
    other = tasks.build(task.name, tokenizer, **SIZES, seed=1)
    for split in SPLITS:
        assert torch.equal(task.split(split).clean, again.split(split).clean)
        assert texts(task.split(split), tokenizer) != texts(other.split(split), tokenizer)


def test_a_split_does_not_depend_on_the_size_of_another(task, tokenizer):
    smaller = tasks.build(task.name, tokenizer, **{**SIZES, "n_train": 4})
    assert torch.equal(task.split("held_out").clean, smaller.split("held_out").clean)


def test_no_prompt_twice(task, tokenizer):
    drawn = [text for split in SPLITS for text in texts(task.split(split), tokenizer)]
    assert len(set(drawn)) == len(drawn)


def shape(template: str, member: int) -> str:
    """One member's template with its letters and digits renamed in the order they come in."""
    text = re.sub(r"\$\(([^()|]*)\|([^()|]*)\)", lambda match: match[1 + member], template)
    placeholders = list(dict.fromkeys(re.findall(r"\$\w", text.lower())))
    return re.sub(r"\$\w", lambda match: f"<{placeholders.index(match[0].lower())}>", text)


@pytest.mark.parametrize("name", PAIRED)
def test_templates_are_disjoint_and_several(name):
    spec = spec_named(name)
    seen: set[str] = set()
    for split in SPLITS:
        assert len(spec.statements.of(split)) >= 3
        shapes = {shape(text, member) for text in spec.templates(split) for member in (0, 1)}
        assert not shapes & seen
        seen |= shapes


def test_names_come_from_the_split_s_pool(task, tokenizer):
    for split in SPLITS:
        shared = spec_named(task.name).identifiers
        pool = set(shared.of(split) if isinstance(shared, Splits) else shared)
        if task.name == "nonsense":
            pool |= set(SHORT_NAMES)
        if task.name == "with_open":
            pool |= {*VERBS[0], *VERBS[1]}
        if task.name == "fstring_brace":
            pool |= {"f", "b", "r"}
        for text in texts(task.split(split), tokenizer):
            words = set(re.findall(r"[A-Za-z]+", text)) - set(LANGUAGE) - FIXED_NAMES
            assert {word.lower() for word in words} <= pool
