"""Tasks in Python code, one by one: the right answer goes on as Python does."""

import ast
import re

import pytest

from sparse_lens.evals import tasks
from sparse_lens.evals.tasks.families.variables import SHORT_NAMES
from sparse_lens.task import SPLITS
from tests.evals.task_texts import SIZES, VERBS, every_prompt, texts


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
    for text, right, wrong in every_prompt(name, tokenizer):
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
    for text, answer, _ in every_prompt("set_or_string", tokenizer):
        variable = text.split()[-1]
        makers = re.findall(rf"\b{variable} = (\w+)\(", text)
        assert len(makers) == 1
        has_add = hasattr({"set": set, "str": str}[makers[0]](), "add")
        assert (answer == ".add") is has_add
        rest = "(1)\n" if has_add else " 'a'\n"
        assert is_python(text + answer + rest)


def test_var_swap_exchanges_two_values(tokenizer):
    for text, answer, _ in every_prompt("var_swap", tokenizer):
        attribute = re.findall(r"(\.\w+),$", text)
        statement = last_statement(text + answer + "".join(attribute))
        assert isinstance(statement, ast.Assign)
        targets, values = (
            [ast.unparse(item) for item in side.elts]  # type: ignore[attr-defined]
            for side in (statement.targets[0], statement.value)
        )
        assert targets == values[::-1]
        assert targets[0] != targets[1]


def test_class_init_copies_the_parameter_of_the_same_name(tokenizer):
    for text, answer, other in every_prompt("class_init", tokenizer):
        attribute = text.removesuffix(" =").rsplit(".", 1)[1]
        assert attribute.startswith(answer.strip() + "_")
        second_half = attribute[len(answer.strip()) :]
        parameters = re.findall(r"\w+", text.split("(self,")[1].split(")")[0])
        assert {attribute, other.strip() + second_half} <= set(parameters)
        assert is_python(text + answer + second_half + "\n")


def test_with_open_asks_for_what_is_done_with_the_file(tokenizer):
    for text, answer, other in every_prompt("with_open", tokenizer):
        said = set(re.findall("[a-z]+", text))
        assert [bool(said & verbs) for verbs in VERBS] == [answer == "r", answer == "w"]
        assert {answer, other} == {"r", "w"}
        assert is_python(f'{text}{answer}"):\n            pass\n')


def test_fstring_brace_inserts_into_f_strings_alone(tokenizer):
    """Where the answer is a brace, the finished string has a part that is computed."""
    for text, right, wrong in every_prompt("fstring_brace", tokenizer):
        assert {right, wrong} == {" {", '")\n'}
        inserted = ast.parse(text + ' {x}")\n')
        computed = any(isinstance(node, ast.FormattedValue) for node in ast.walk(inserted))
        assert computed == (right == " {")
        assert is_python(text + '")\n')


def test_enumerate_range_counts_the_loop_s_variables(tokenizer):
    for text, answer, _ in every_prompt("enumerate_range", tokenizer):
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
