"""`sparse-lens compare`: from strings to a comparison, shown as it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from sparse_lens.ablation import registry as ablation_registry
from sparse_lens.commands.assignments import assign, split_assignment
from sparse_lens.commands.compare_console import Display
from sparse_lens.commands.compare_presets import PRESETS
from sparse_lens.commands.names import made, named
from sparse_lens.conditions import CONDITIONS
from sparse_lens.evals import tasks as task_registry
from sparse_lens.evals.compare import Comparison
from sparse_lens.evals.harness.nothing_to_find import NO_CONTROLS
from sparse_lens.evals.harness.sources import GraphOf
from sparse_lens.evals.question import registry as question_registry
from sparse_lens.evals.results import Results
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.method import Method
from sparse_lens.method import registry as method_registry
from sparse_lens.models import zoo
from sparse_lens.models.tokenizer import load_tokenizer
from sparse_lens.objectives import OBJECTIVES, Objective
from sparse_lens.target import PAPER

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
    objective: str | None = None,
    target_loss: float | None = None,
    target_kl: float | None = None,
    under: Sequence[str] | None = None,
    questions: Sequence[str] | None = None,
    steps: int | None = None,
    controls: bool = True,
    assignments: Sequence[str] = (),
    **settings: Any,
) -> Comparison:
    """A preset with the fields replaced that flags give; None where one was not given.

    Args:
        console: where tasks are named that `all` leaves out.
        objective: a name, or `none` to leave each method its own. One that an assignment gives to a
            method stays that method's.
        models: like `tasks`, `methods`, `under` and `questions` as typed: each string may hold
            several names, separated by commas.
        target_loss: with `target_kl` and `under`, the fields of one target for all methods.
        steps: of all methods that learn.
        controls: whether to keep the preset's jobs with nothing to find.
        assignments: `NAME.FIELD=VALUE`, of a method or a question.
        settings: other fields of the comparison, as they are.
    """
    comparison = named("preset", PRESETS, preset)
    changes = {name: value for name, value in settings.items() if value is not None}
    if models is not None:
        changes["models"] = _names(models)
    if tasks is not None:
        changes["tasks"] = _names(tasks)
    if changes.get("tasks") == ("all",):
        changes["tasks"] = _tasks_that_fit(changes.get("models", comparison.models), console)
    if graph is not None:
        changes["graph"] = named("graph", GRAPHS, graph)
    if ablation is not None:
        changes["ablation"] = made("ablation", ablation_registry(), ablation)
    if objective is not None:
        cls = named("objective", {**OBJECTIVES, "none": None}, objective)
        changes["objective"] = None if cls is None else cls()
    target = _target(target_loss, target_kl, under)
    if target:
        changes["target"] = replace(comparison.target or PAPER, **target)
    if not controls:
        changes["controls"] = NO_CONTROLS
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
    if any(split_assignment(assignment)[1] == "objective" for assignment in assignments):
        # The comparison's objective would replace what is assigned, so it is handed out before.
        common = changes.get("objective", comparison.objective)
        changes["methods"] = _with_objective(changes["methods"], common)
        changes["objective"] = None
    for assignment in assignments:
        assign(assignment, changes["methods"], changes["questions"])
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


def _target(
    task_loss: float | None, kl: float | None, under: Sequence[str] | None
) -> dict[str, Any]:
    """Those fields of a target that flags give."""
    conditions = None
    if under is not None:
        conditions = tuple(made("condition", CONDITIONS, name) for name in _names(under))
    given = {"task_loss": task_loss, "kl": kl, "under": conditions}
    return {name: value for name, value in given.items() if value is not None}


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


def _chosen(
    what: str,
    names: Iterable[str],
    in_preset: Mapping[str, Value],
    installed: Mapping[str, type[Value]],
) -> dict[str, Value]:
    """Those of some names: as the preset has them, else with their fields at the defaults."""
    return {
        name: in_preset[name] if name in in_preset else made(what, installed, name)
        for name in names
    }


def _with_objective(
    methods: Mapping[str, Method], objective: Objective | None
) -> dict[str, Method]:
    """The methods with an objective in place of their own; None leaves them as they are."""
    if objective is None:
        return dict(methods)
    return {name: replace(method, objective=objective) for name, method in methods.items()}


def _with_steps(methods: Mapping[str, Any], steps: int) -> dict[str, Any]:
    learning = [name for name, method in methods.items() if hasattr(method, "n_steps")]
    if not learning:
        raise ValueError(f"--steps: none of {', '.join(methods)} takes steps.")
    return {
        name: replace(method, n_steps=steps) if name in learning else method
        for name, method in methods.items()
    }
