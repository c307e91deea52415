"""`sparse-lens compare`: from strings to a comparison, shown as it runs."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from sparse_lens.ablation import registry as ablation_registry
from sparse_lens.commands.compare_console import Display
from sparse_lens.commands.compare_presets import PRESETS
from sparse_lens.evals import tasks as task_registry
from sparse_lens.evals.compare import Comparison
from sparse_lens.evals.harness.sources import GraphOf
from sparse_lens.evals.question import registry as question_registry
from sparse_lens.evals.results import Results
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.method import registry as method_registry
from sparse_lens.models import zoo
from sparse_lens.models.tokenizer import load_tokenizer

GRAPHS: Mapping[str, GraphOf] = {
    "channel": ChannelGraph.from_model,
    "component": ComponentGraph.from_model,
}

Value = TypeVar("Value")


def comparison_of(
    preset: str,
    *,
    console: Console,
    models: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    graph: str | None = None,
    ablation: str | None = None,
    questions: Sequence[str] | None = None,
    steps: int | None = None,
    assignments: Sequence[str] = (),
    **settings: Any,
) -> Comparison:
    """A preset with the fields replaced that flags give; None where one was not given.

    Args:
        console: where tasks are named that `all` leaves out.
        models: like `tasks`, `methods` and `questions` as typed: each string may hold several
            names, separated by commas.
        steps: of all methods that learn.
        assignments: `NAME.FIELD=VALUE`, of a method or a question.
        settings: other fields of the comparison, as they are.
    """
    comparison = _named("preset", PRESETS, preset)
    changes = {name: value for name, value in settings.items() if value is not None}
    if models is not None:
        changes["models"] = _names(models)
    if tasks is not None:
        changes["tasks"] = _names(tasks)
    if changes.get("tasks") == ("all",):
        changes["tasks"] = _tasks_that_fit(changes.get("models", comparison.models), console)
    if graph is not None:
        changes["graph"] = _named("graph", GRAPHS, graph)
    if ablation is not None:
        changes["ablation"] = _named("ablation", ablation_registry(), ablation)()
    changes["methods"] = comparison.named_methods
    if methods is not None:
        changes["methods"] = _chosen(
            "method", _names(methods), comparison.named_methods, method_registry()
        )
    changes["questions"] = comparison.named_questions
    if questions is not None:
        names = _question_names(questions)
        changes["questions"] = _chosen(
            "question", names, comparison.named_questions, question_registry()
        )
    for assignment in assignments:
        _assign(assignment, changes["methods"], changes["questions"])
    if steps is not None:
        changes["methods"] = _with_steps(changes["methods"], steps)
    return replace(comparison, **changes)


def run(
    comparison: Comparison, out: Path, *, workers: int, report: bool, console: Console
) -> Results:
    """Run a comparison with progress, print its summary, and write the report."""
    with Display(console) as display, _how_to_go_on(console):
        results = comparison.run(out, workers=workers, progress=display.show)
    display.summary(results)
    console.print(f"Results: {out / 'results.jsonl'}", soft_wrap=True)
    if report and results.done:
        from sparse_lens.evals.report import write_report

        path = write_report(results, out / "report.html")
        console.print(f"Report:  {path}", soft_wrap=True)
    return results


@contextmanager
def _how_to_go_on(console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped. Finished jobs are kept; the same command goes on from there.")
        raise


def _tasks_that_fit(models: Iterable[Any], console: Console) -> tuple[str, ...]:
    """The Python tasks that all the models' tokenizers can carry; the others are printed."""
    problems: dict[str, str] = {}
    for model in models:
        tokenizer = load_tokenizer(zoo.resolve(model))
        for name, problem in task_registry.validate(tokenizer, "python").items():
            if problem is not None:
                problems.setdefault(name, problem)
    for problem in problems.values():
        console.print(f"Left out: {problem}", soft_wrap=True, highlight=False)
    return tuple(name for name in task_registry.names() if name not in problems)


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """The names in some flags, each with one or several."""
    parts = (name.strip() for text in given for name in text.split(","))
    return tuple(name for name in parts if name)


def _question_names(given: Sequence[str]) -> tuple[str, ...]:
    """The same, with `all` for every installed question and `none` for nothing."""
    names = _names(given)
    if names == ("all",):
        return tuple(question_registry())
    return () if names == ("none",) else names


def _named(what: str, known: Mapping[str, Value], name: str) -> Value:
    if name not in known:
        raise ValueError(f"no {what} {name!r}; there are {', '.join(known)}.")
    return known[name]


def _chosen(
    what: str,
    names: Iterable[str],
    in_preset: Mapping[str, Value],
    installed: Mapping[str, type[Value]],
) -> dict[str, Value]:
    """Those of some names: as the preset has them, else with their fields at the defaults."""
    return {
        name: in_preset[name] if name in in_preset else _named(what, installed, name)()
        for name in names
    }


def _with_field(name: str, value: Value, field: str, new: Any) -> Value:
    known = [f.name for f in dataclasses.fields(value)]  # type: ignore[arg-type]
    if field not in known:
        raise ValueError(f"{name} has no field {field!r}; it has {', '.join(known)}.")
    return replace(value, **{field: new})  # type: ignore[type-var]


def _with_steps(methods: Mapping[str, Value], steps: int) -> dict[str, Value]:
    learning = [name for name, method in methods.items() if hasattr(method, "n_steps")]
    if not learning:
        raise ValueError(f"--steps: none of {', '.join(methods)} takes steps.")
    return {
        name: _with_field(name, method, "n_steps", steps) if name in learning else method
        for name, method in methods.items()
    }


def _assign(assignment: str, methods: dict[str, Any], questions: dict[str, Any]) -> None:
    """Replace the method or the question whose field is set."""
    target, equals, text = assignment.partition("=")
    name, dot, field = target.partition(".")
    if not (equals and dot):
        raise ValueError(
            f"--set takes NAME.FIELD=VALUE, as in node-pruning.k_coef=1e-3; got {assignment!r}."
        )
    value = _named("method or question in this comparison", {**methods, **questions}, name)
    owner = methods if name in methods else questions
    literal = _literal(assignment, text, getattr(value, field, None))
    owner[name] = _with_field(name, value, field, literal)


def _literal(assignment: str, text: str, current: Any) -> Any:
    """A literal; where the field holds a string now, also a bare word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if isinstance(current, str):
            return text
        raise ValueError(
            f"--set {assignment!r}: {text!r} is not a number, True, False, None, a quoted string "
            "or a tuple of these."
        ) from None
