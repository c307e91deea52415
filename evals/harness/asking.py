"""The answers to a comparison's questions about one chosen circuit."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from typing import Any

from sparse_lens.evals.question import Question, Subject


def answers_of(
    subject: Subject, questions: Mapping[str, Question]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The answers by the questions' names, as JSON, and the tracebacks of those that failed."""
    answers, errors = {}, {}
    for name, question in questions.items():
        try:
            answers[name] = _as_json(name, question.ask(subject))
        except Exception:  # a question may be anyone's, and what was found must not be lost for it
            errors[name] = traceback.format_exc()
    return answers, errors


def _as_json(name: str, answers: object) -> dict[str, Any]:
    if isinstance(answers, Mapping):
        try:
            return json.loads(json.dumps(dict(answers)))
        except TypeError:
            pass  # such as a tensor
    raise ValueError(
        f"the question {name!r} must answer with numbers, or lists of numbers, by name; got "
        f"{answers!r}."
    )
