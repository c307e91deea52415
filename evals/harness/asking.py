"""The answers to a comparison's questions about one chosen circuit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sparse_lens.evals.question import Question, Subject


def answers_of(subject: Subject, questions: Mapping[str, Question]) -> dict[str, dict[str, Any]]:
    """The answers by the questions' names, as JSON.

    Raises:
        ValueError: when an answer cannot be written down.
    """
    return {name: _as_json(name, question.ask(subject)) for name, question in questions.items()}


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
