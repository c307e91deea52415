"""`sparse-lens tasks`: the tasks, with an example of each."""

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
        n_fitting = sum(problem is None for problem in problems.values())
        parts.append(Text(f"{n_fitting} of {len(problems)} tasks can be put to {model}."))
    return Group(*parts)


def _card(task: TaskCard, problem: str | None) -> Group:
    lines = [Text(task.question)]
    for kind, sizes in (("templates", task.n_templates), ("prompts", task.n_prompts)):
        counts = ", ".join(f"{n} {split}" for split, n in sizes.items())
        lines.append(Text(f"{kind}: {counts}", style="dim"))
    lines += [_prompt(example.clean, example.answers) for example in task.examples]
    shown = [example.clean for example in task.examples]
    corrupted = dict.fromkeys(example.corrupted for example in task.examples)
    lines += [
        Text.assemble("corrupted: ", (repr(text), "dim")) for text in corrupted if text not in shown
    ]
    if problem is not None:
        lines.append(Text(problem, style="red"))
    return Group(Text(task.name, style="bold"), Padding(Group(*lines), (0, 0, 0, 2)))


def _prompt(text: str, answers: Sequence[str]) -> Text:
    shown = [repr(answer) for answer in answers[:_MOST_ANSWERS]]
    shown += ["..."] if len(answers) > _MOST_ANSWERS else []
    return Text.assemble((repr(text), "dim"), " -> ", (" ".join(shown), "bold"))
