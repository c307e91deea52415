"""`sparse-lens tasks`: what models are asked to do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from sparse_lens.evals.tasks import TaskCard, card, names, validate
from sparse_lens.models import zoo
from sparse_lens.models.tokenizer import load_tokenizer


def describe_tasks(model: str | Path | None = None) -> Group:
    """The card of every task; with a model, whether its tokenizer can carry the task.

    Args:
        model: a name or a folder, of which only the tokenizer is read.
    """
    problems = {} if model is None else validate(load_tokenizer(zoo.resolve(model)))
    parts: list[RenderableType] = []
    for name in names():
        parts += [_card(card(name), problems.get(name)), Text()]
    if model is None:
        parts.append(Text("Which of them a model's tokenizer can carry: --model NAME"))
    else:
        fit = sum(problem is None for problem in problems.values())
        parts.append(Text(f"{fit} of {len(problems)} tasks can be put to {model}."))
    return Group(*parts)


def _card(found: TaskCard, problem: str | None) -> Group:
    clean, corrupted = found.example.clean, found.example.corrupted
    templates = ", ".join(f"{n} {split}" for split, n in found.n_templates.items())
    lines = [
        Text(found.question),
        Text(f"templates: {templates}", style="dim"),
        _example(clean, found.example.answer),
        _example(corrupted, found.example.distractor),
    ]
    if problem is not None:
        lines.append(Text(problem, style="red"))
    return Group(Text(found.name, style="bold"), Padding(Group(*lines), (0, 0, 0, 2)))


def _example(prompt: str, answer: str) -> Text:
    return Text.assemble((repr(prompt), "dim"), " -> ", (repr(answer), "bold"))
