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
    for name in tasks.names():
        found = tasks.card(name)
        assert found.question in text
        assert repr(found.example.clean) in text
        assert repr(found.example.corrupted) in text
        assert found.example.clean != found.example.corrupted


def test_a_card_counts_templates() -> None:
    spec = tasks.spec("lambda_func")
    found = tasks.card("lambda_func")
    assert found.n_templates["train"] == len(set(spec.templates("train")))
    assert not found.answers_differ
    assert tasks.card("var_swap").answers_differ


def test_a_model_s_tokenizer_is_asked() -> None:
    assert f"{len(tasks.names())} of {len(tasks.names())} tasks can be put to py-sparse" in run(
        "--model", "py-sparse"
    )


def test_validate_gives_the_reason() -> None:
    whole = tasks.validate(load_tokenizer(zoo.resolve("py-dense")))
    assert dict.fromkeys(tasks.names()) == whole
    problems = tasks.validate(letters())
    assert all(
        "cannot be put to this tokenizer" in str(problems[n]) for n in ("with_as", "if_equals")
    )
    assert None not in problems.values()


def test_an_unknown_task_has_no_card() -> None:
    with pytest.raises(ValueError, match="no task 'nothing'; there are single_double_quote"):
        tasks.card("nothing")
