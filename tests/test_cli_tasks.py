"""`sparse-lens tasks`, the cards it prints, and which tasks a tokenizer can carry."""

import pytest
from typer.testing import CliRunner

from sparse_lens.cli import app
from sparse_lens.evals import tasks
from sparse_lens.models import zoo
from sparse_lens.models.tokenizer import load_tokenizer
from tests.models.tiny_gpt import letters


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["tasks", *arguments], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_task_has_a_card() -> None:
    text = run()
    for name in tasks.names("all"):
        found = tasks.card(name)
        assert found.question in text
        assert f"{found.n_templates['train']} train, " in text
        for example in found.examples:
            assert f"{example.clean!r} -> {example.answers[0]!r}" in text
            assert repr(example.corrupted) in text
            assert example.clean != example.corrupted
    assert "prompts: 128 train, 64 validation, 128 held_out" in text


def test_a_set_of_answers_is_shown_in_part() -> None:
    answers = tasks.card("greater_than").examples[0].answers
    assert len(answers) > 5
    assert " ".join(map(repr, answers[:5])) + " ..." in run()


def test_a_card_counts_templates() -> None:
    spec = tasks.spec("lambda_func")
    found = tasks.card("lambda_func")
    assert found.n_templates["train"] == len(set(spec.templates("train")))
    assert not found.answers_differ
    assert tasks.card("var_swap").answers_differ


# What the embedded models' tokenizer splits; names in English, and years.
REFUSED = {
    "final_kwarg": "the answer '=None' is not one token but ['=', 'None']",
    "enumerate_range": "the answer ' enumerate' is not one token",
    "indirect_object": "is not one token but",
    "greater_than": "is not one token but",
    "gendered_pronoun": "the answer ' she' is not one token",
}


def test_a_model_s_tokenizer_is_asked() -> None:
    n = len(tasks.names("all"))
    text = run("--model", "py-sparse")
    assert f"{n - len(REFUSED)} of {n} tasks can be put to py-sparse" in text
    assert REFUSED["final_kwarg"] in text


def test_validate_gives_the_reason() -> None:
    whole = tasks.validate(load_tokenizer(zoo.resolve("py-dense")))
    assert tuple(whole) == tasks.names("all")
    for name, problem in whole.items():
        assert (problem is None) == (name not in REFUSED)
        assert REFUSED.get(name, "") in (problem or "")
    problems = tasks.validate(letters(), "python")
    assert all(
        "cannot be put to this tokenizer" in str(problems[n]) for n in ("with_as", "if_equals")
    )
    assert tuple(problems) == tasks.names()
    assert None not in problems.values()


def test_an_unknown_task_has_no_card() -> None:
    with pytest.raises(ValueError, match="no task 'nothing'; there are single_double_quote"):
        tasks.card("nothing")
