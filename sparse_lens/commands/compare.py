"""`sparse-lens compare`: from strings to a comparison, shown as it runs."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from sparse_lens.ablation import registry as ablations
from sparse_lens.commands.compare_console import Display
from sparse_lens.evals import tasks
from sparse_lens.evals.compare import compare
from sparse_lens.evals.harness.sources import GraphOf
from sparse_lens.evals.presets import PRESETS, ComparePreset
from sparse_lens.evals.questions import QUESTIONS, Questions
from sparse_lens.evals.results import Results
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.method import Method, registry
from sparse_lens.models import zoo
from sparse_lens.models.tokenizer import load_tokenizer

GRAPHS: Mapping[str, GraphOf] = {
    "channel": ChannelGraph.from_model,
    "component": ComponentGraph.from_model,
}

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class CompareOptions:
    """The command's flags; None where one was not given and the preset decides.

    Lists of names are as typed: each may hold several, separated by commas.
    """

    preset: str = "quick"
    models: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    graph: str | None = None
    ablation: str | None = None
    n_seeds: int | None = None
    target_loss: float | None = None
    questions: Sequence[str] | None = None
    steps: int | None = None
    fields: tuple[str, ...] = ()
    """`METHOD.FIELD=VALUE`."""

    device: str | None = None


def run(
    options: CompareOptions, out: Path, *, workers: int, report: bool, console: Console
) -> Results:
    """Run a comparison with progress, print its summary, and write the report."""
    preset = _with_flags(_named("preset", PRESETS, options.preset), options)
    methods = {name: _method(name, given) for name, given in preset.methods.items()}
    methods = _with_steps(_with_fields(methods, options.fields), options.steps)
    if preset.tasks == ("all",):
        preset = replace(preset, tasks=_tasks_that_fit(preset.models, console))
    with Display(console) as display, _how_to_go_on(console):
        results = compare(
            preset.models,
            preset.tasks,
            methods,
            out=out,
            graph=_named("graph", GRAPHS, preset.graph),
            ablation=_named("ablation", ablations(), preset.ablation)(),
            seeds=preset.n_seeds,
            target_loss=preset.target_loss,
            budgets=preset.budgets,
            random_draws=preset.random_draws,
            questions=preset.questions,
            splits=preset.splits,
            device=options.device,
            workers=workers,
            progress=display.show,
        )
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


def _with_flags(preset: ComparePreset, options: CompareOptions) -> ComparePreset:
    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("graph", "ablation", "n_seeds", "target_loss")
        if getattr(options, name) is not None
    }
    if options.models is not None:
        given["models"] = _names(options.models)
    if options.tasks is not None:
        given["tasks"] = _names(options.tasks)
    if options.methods is not None:
        given["methods"] = {name: preset.methods.get(name, {}) for name in _names(options.methods)}
    if options.questions is not None:
        given["questions"] = _asked(preset.questions, options.questions)
    return replace(preset, **given)


def _asked(preset: Questions, given: Sequence[str]) -> Questions:
    shorthands: dict[tuple[str, ...], tuple[str, ...]] = {
        ("all",): tuple(QUESTIONS),
        ("none",): (),
    }
    names = _names(given)
    return preset.only(shorthands.get(names, names))


def _tasks_that_fit(models: Iterable[str], console: Console) -> tuple[str, ...]:
    """The Python tasks that all the models' tokenizers can carry; the others are printed."""
    problems: dict[str, str] = {}
    for model in models:
        for name, problem in tasks.validate(load_tokenizer(zoo.resolve(model)), "python").items():
            if problem is not None:
                problems.setdefault(name, problem)
    for problem in problems.values():
        console.print(f"Left out: {problem}", soft_wrap=True, highlight=False)
    return tuple(name for name in tasks.names() if name not in problems)


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """The names in some flags, each with one or several."""
    parts = (name.strip() for text in given for name in text.split(","))
    return tuple(name for name in parts if name)


def _named(what: str, known: Mapping[str, Thing], name: str) -> Thing:
    if name not in known:
        raise ValueError(f"no {what} {name!r}; there are {', '.join(known)}.")
    return known[name]


def _method(name: str, given: Mapping[str, Any]) -> Method:
    return _with_known_fields(name, _named("method", registry(), name)(), given)  # type: ignore[call-arg]


def _with_known_fields(label: str, method: Method, given: Mapping[str, Any]) -> Method:
    known = [f.name for f in dataclasses.fields(method)]
    for name in given:
        if name not in known:
            raise ValueError(f"{label} has no field {name!r}; it has {', '.join(known)}.")
    return replace(method, **given)


def _with_steps(methods: dict[str, Method], steps: int | None) -> dict[str, Method]:
    if steps is None:
        return methods
    learning = [name for name, method in methods.items() if hasattr(method, "n_steps")]
    if not learning:
        raise ValueError(f"--steps: none of {', '.join(methods)} takes steps.")
    return {
        name: _with_known_fields(name, method, {"n_steps": steps} if name in learning else {})
        for name, method in methods.items()
    }


def _with_fields(methods: dict[str, Method], assignments: Sequence[str]) -> dict[str, Method]:
    methods = dict(methods)
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        label, dot, name = target.partition(".")
        if not (equals and dot):
            raise ValueError(
                f"--set takes METHOD.FIELD=VALUE, as in node-pruning.k_coef=1e-3; got "
                f"{assignment!r}."
            )
        method = _named("method in this comparison", methods, label)
        methods[label] = _with_known_fields(
            label, method, {name: _value(assignment, text, getattr(method, name, None))}
        )
    return methods


def _value(assignment: str, text: str, now: Any) -> Any:
    """A literal; where the field holds a string now, also a bare word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if isinstance(now, str):
            return text
        raise ValueError(
            f"--set {assignment!r}: {text!r} is not a number, True, False, None, a quoted string "
            "or a tuple of these."
        ) from None
