"""`sparse-lens tasks`: what models are asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from sparse_lens.evals.tasks import GROUPS, TaskCard, card, names, validate
from sparse_lens.models import zoo
from sparse_lens.models.tokenizer import load_tokenizer

_MOST_ANSWERS = 5
_HEADINGS = {
    "python": "Python code",
    "language": "For dense language models",
    "control": "Controls",
}


def describe_tasks(model: str | Path | None = None) -> Group:
    """The card of every task; with a model, whether its tokenizer can carry the task.

    Args:
        model: a name or a folder, of which only the tokenizer is read.
    """
    problems = {} if model is None else validate(load_tokenizer(zoo.resolve(model)))
    parts: list[RenderableType] = []
    for group in GROUPS:
        parts += [Text(_HEADINGS[group], style="bold underline"), Text()]
        for name in names(group):
            parts += [_card(card(name), problems.get(name)), Text()]
    if model is None:
        parts.append(Text("Which of them a model's tokenizer can carry: --model NAME"))
    else:
        fit = sum(problem is None for problem in problems.values())
        parts.append(Text(f"{fit} of {len(problems)} tasks can be put to {model}."))
    return Group(*parts)


def _card(found: TaskCard, problem: str | None) -> Group:
    lines = [Text(found.question)]
    for what, sizes in (("templates", found.n_templates), ("prompts", found.n_prompts)):
        each = ", ".join(f"{n} {split}" for split, n in sizes.items())
        lines.append(Text(f"{what}: {each}", style="dim"))
    lines += [_prompt(example.clean, example.answers) for example in found.examples]
    shown = [example.clean for example in found.examples]
    corrupted = dict.fromkeys(example.corrupted for example in found.examples)
    lines += [
        Text.assemble("corrupted: ", (repr(text), "dim")) for text in corrupted if text not in shown
    ]
    if problem is not None:
        lines.append(Text(problem, style="red"))
    return Group(Text(found.name, style="bold"), Padding(Group(*lines), (0, 0, 0, 2)))


def _prompt(text: str, answers: Sequence[str]) -> Text:
    shown = [repr(answer) for answer in answers[:_MOST_ANSWERS]]
    shown += ["..."] if len(answers) > _MOST_ANSWERS else []
    return Text.assemble((repr(text), "dim"), " -> ", (" ".join(shown), "bold"))
