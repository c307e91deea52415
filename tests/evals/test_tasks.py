"""Every task: aligned pairs, right answers, disjoint splits, and refusals with a reason."""

import ast
import keyword
import re
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sparse_lens.evals import tasks
from sparse_lens.evals.tasks import Splits, TaskSpec
from sparse_lens.evals.tasks.families.variables import SHORT_NAMES
from sparse_lens.task import Prompts

SPLITS = ("train", "validation", "held_out")
SIZES: dict[str, Any] = {"n_train": 48, "n_validation": 32, "n_held_out": 48}

# What Python code may hold besides names of our own: the language's words and these.
FIXED_NAMES = {"current"}  # of set_or_string_fixedvarname
LANGUAGE = {*keyword.kwlist, "self", "init", "print", "open", "len", "set", "str"}
LANGUAGE |= {"ValueError", "TypeError", "KeyError", "of", "by"}
VERBS = {"read", "reading", "load"}, {"write", "writing", "save"}  # of with_open

# All that are made of pairs in Python code; those in English are in test_language_tasks.py.
PAIRED = (*tasks.names("python"), *tasks.names("control"))


def spec_named(name: str) -> TaskSpec:
    spec = tasks.spec(name)
    assert isinstance(spec, TaskSpec)
    return spec


@pytest.fixture(scope="module", params=PAIRED)
def task(request, tokenizer):
    return tasks.build(request.param, tokenizer, **SIZES)


def texts(prompts: Prompts, tokenizer) -> list[str]:
    assert prompts.lengths is not None
    rows = zip(prompts.clean.tolist(), prompts.lengths.tolist(), strict=True)
    return [tokenizer.decode(row[:length]) for row, length in rows]


def candidates(prompts: Prompts, row: int, tokenizer) -> tuple[str, str]:
    """The right and the wrong answer."""
    assert prompts.distractors is not None
    return tokenizer.decode([prompts.answers[row]]), tokenizer.decode([prompts.distractors[row]])


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


def is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


# How a prompt goes on after its answer, where an answer alone does not end the statement.
CONTINUATIONS = {
    "while_return_true": {":\n": "        pass\n"},
    "lambda_func": {":": " 1\n", "(": "thing):\n            pass\n"},
    "for_while": {" in": " thing:\n            pass\n", ":\n": "            pass\n"},
    "indent_for": {" " * 7: " pass\n", " " * 11: " pass\n"},
    "with_as": {" as": " thing:\n        pass\n"},
    "if_equals": {" ==": " 1:\n        pass\n", " =": " 1\n"},
    "import_from": {" import": " thing\n"},
    "bracket_brace": {":": " 1}", ",": " 1]"},
    "single_double_quote": {},
    "bracket_counting": {},
    "final_kwarg": {"=None": "):\n            pass\n", "):\n": "            pass\n"},
    "else_elif": {":\n": "            pass\n", " =": " 1\n"},
}
# Where the wrong answer is Python as well, and means something that nobody writes: a set in place
# of a dict, `while a in b:`, a comparison whose value is dropped, a body that is too deep, and a
# default that nothing asks for.
ALSO_PYTHON = {
    ("bracket_brace", ":"),
    ("for_while", ":\n"),
    ("if_equals", " ="),
    ("indent_for", " " * 7),
    ("final_kwarg", "):\n"),
}


@pytest.mark.parametrize("name", CONTINUATIONS)
def test_the_right_answer_is_python_and_the_wrong_one_is_not(name, tokenizer):
    task = tasks.build(name, tokenizer, **SIZES)
    for split in SPLITS:
        prompts = task.split(split)
        for row, text in enumerate(texts(prompts, tokenizer)):
            right, wrong = candidates(prompts, row, tokenizer)
            rests = [CONTINUATIONS[name].get(answer, "") for answer in (right, wrong)]
            if name == "bracket_brace" and "(" in text.splitlines()[-1]:
                rests = [rest + ")" for rest in rests]
            assert is_python(text + right + rests[0])
            wrong_is_python = any(is_python(text + wrong + rest) for rest in rests)
            assert wrong_is_python == ((name, right) in ALSO_PYTHON)


def last_statement(source: str) -> ast.stmt:
    """The innermost last statement."""
    node: ast.AST = ast.parse(source)
    while getattr(node, "body", None):
        node = node.body[-1]  # type: ignore[attr-defined]
    assert isinstance(node, ast.stmt)
    return node


def test_set_or_string_asks_for_what_the_variable_has(tokenizer):
    task = tasks.build("set_or_string", tokenizer, **SIZES)
    for split in SPLITS:
        prompts = task.split(split)
        for row, text in enumerate(texts(prompts, tokenizer)):
            variable = text.split()[-1]
            makers = re.findall(rf"\b{variable} = (\w+)\(", text)
            assert len(makers) == 1
            has_add = hasattr({"set": set, "str": str}[makers[0]](), "add")
            assert (tokenizer.decode([prompts.answers[row]]) == ".add") is has_add
            rest = "(1)\n" if has_add else " 'a'\n"
            assert is_python(text + tokenizer.decode([prompts.answers[row]]) + rest)


def test_var_swap_exchanges_two_values(tokenizer):
    task = tasks.build("var_swap", tokenizer, **SIZES)
    for split in SPLITS:
        prompts = task.split(split)
        for row, text in enumerate(texts(prompts, tokenizer)):
            attribute = re.findall(r"(\.\w+),$", text)
            answer = tokenizer.decode([prompts.answers[row]])
            statement = last_statement(text + answer + "".join(attribute))
            assert isinstance(statement, ast.Assign)
            targets, values = (
                [ast.unparse(item) for item in side.elts]  # type: ignore[attr-defined]
                for side in (statement.targets[0], statement.value)
            )
            assert targets == values[::-1]
            assert targets[0] != targets[1]


def test_class_init_copies_the_parameter_of_the_same_name(tokenizer):
    task = tasks.build("class_init", tokenizer, **SIZES)
    for split in SPLITS:
        prompts = task.split(split)
        for row, text in enumerate(texts(prompts, tokenizer)):
            attribute = text.removesuffix(" =").rsplit(".", 1)[1]
            answer, other = candidates(prompts, row, tokenizer)
            assert attribute.startswith(answer.strip() + "_")
            second_half = attribute[len(answer.strip()) :]
            parameters = re.findall(r"\w+", text.split("(self,")[1].split(")")[0])
            assert {attribute, other.strip() + second_half} <= set(parameters)
            assert is_python(text + answer + second_half + "\n")


def test_with_open_asks_for_what_is_done_with_the_file(tokenizer):
    task = tasks.build("with_open", tokenizer, **SIZES)
    for split in SPLITS:
        prompts = task.split(split)
        for row, text in enumerate(texts(prompts, tokenizer)):
            answer, other = candidates(prompts, row, tokenizer)
            said = set(re.findall("[a-z]+", text))
            assert [bool(said & verbs) for verbs in VERBS] == [answer == "r", answer == "w"]
            assert {answer, other} == {"r", "w"}
            assert is_python(f'{text}{answer}"):\n            pass\n')


def test_fstring_brace_inserts_into_f_strings_alone(tokenizer):
    """Where the answer is a brace, the finished string has a part that is computed."""
    task = tasks.build("fstring_brace", tokenizer, **SIZES)
    for split in SPLITS:
        prompts = task.split(split)
        for row, text in enumerate(texts(prompts, tokenizer)):
            right, wrong = candidates(prompts, row, tokenizer)
            assert {right, wrong} == {" {", '")\n'}
            inserted = ast.parse(text + ' {x}")\n')
            computed = any(isinstance(node, ast.FormattedValue) for node in ast.walk(inserted))
            assert computed == (right == " {")
            assert is_python(text + '")\n')


def test_enumerate_range_counts_the_loop_s_variables(tokenizer):
    task = tasks.build("enumerate_range", tokenizer, **SIZES)
    for split in SPLITS:
        prompts = task.split(split)
        for row, text in enumerate(texts(prompts, tokenizer)):
            answer, _ = candidates(prompts, row, tokenizer)
            line = text.splitlines()[-1]
            rest = "(x)" + ("]" + ")" * line.count("(") if "[" in line else ":\n            pass")
            loops = [
                node
                for node in ast.walk(ast.parse(text + answer + rest))
                if isinstance(node, (ast.For, ast.comprehension))
            ]
            assert len(loops) == 1
            assert isinstance(loops[0].target, ast.Tuple) == (answer == " enumerate")


def test_nonsense_has_a_rule_of_its_own_and_keeps_to_it(tokenizer):
    task = tasks.build("nonsense", tokenizer, **SIZES)
    called: dict[str, set[str]] = {}
    for split in SPLITS:
        prompts = task.split(split)
        rows = texts(prompts, tokenizer)
        for row, (one, other) in enumerate(zip(rows[::2], rows[1::2], strict=True)):
            words = [re.findall("[a-z]+", text) for text in (one, other)]
            [pair] = [{a, b} for a, b in zip(*words, strict=True) if a != b]
            for member, text in enumerate((one, other)):
                [name] = pair & set(re.findall("[a-z]+", text))
                answer = tokenizer.decode([prompts.answers[2 * row + member]])
                called.setdefault(name, set()).add(answer)
    assert set(called) == set(SHORT_NAMES)
    assert all(len(answers) == 1 for answers in called.values())
    assert [sum(answers == {a} for answers in called.values()) for a in (" and", " or")] == [6, 6]


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


def test_an_answer_that_merges_with_the_prompt_is_refused(tokenizer):
    assert len(tokenizer.tokenize(")\n")) == 1
    spec = spec_of("    $(with|return) open($a)", (" as", "\n"))
    with pytest.raises(ValueError, match=r"0 of the 2 train prompts.*merges with the end"):
        tasks.build(spec, tokenizer, n_train=2)


def test_pairs_out_of_line_are_refused(tokenizer):
    spec = spec_of("    $(with|$c =) $a", (" as", "\n"))
    with pytest.raises(ValueError, match="different numbers of tokens"):
        tasks.build(spec, tokenizer, n_train=2)


def test_pairs_that_differ_too_much_are_refused(tokenizer):
    spec = spec_of("    $(async with|$c =) $a", (" as", "\n"))
    with pytest.raises(ValueError, match="differ in 2 tokens"):
        tasks.build(spec, tokenizer, n_train=2)


def test_equal_answers_are_refused(tokenizer):
    spec = spec_of("    $(for|while) $a", (":", ":"))
    with pytest.raises(ValueError, match="same token"):
        tasks.build(spec, tokenizer, n_train=2)


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
