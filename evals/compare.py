"""The comparison: every model, task, method and seed is a job, and every job leaves a record."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation, MeanAblation
from sparse_lens.atomic import write_atomically
from sparse_lens.evals.budgets import EdgeBudgets
from sparse_lens.evals.harness.executing import (
    Happenings,
    JobExecutor,
    in_this_process,
    on_executor,
)
from sparse_lens.evals.harness.jobs import Job, Outcome, takes_target
from sparse_lens.evals.harness.sources import GraphOf, ModelSource, TaskSource
from sparse_lens.evals.harness.workers import in_workers
from sparse_lens.evals.questions import Questions
from sparse_lens.evals.records import Record
from sparse_lens.evals.results import Results, ResultsWriter, drawing_path
from sparse_lens.evals.tasks import SplitSizes
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.method import Method, registry
from sparse_lens.task import Task

TARGET_LOSS = 0.15
"""Nats a prompt, as in Gao et al. 2025."""


@dataclass(frozen=True)
class Progress:
    """How far a comparison is; reported as a job begins and as it ends."""

    number: int
    """Place of this job in the comparison, from 1; jobs may end in any order."""

    total: int
    model: str
    task: str
    method: str
    seed: int

    remaining: Mapping[str, int]
    """How many jobs of each method have not ended."""

    record: Record | None
    """None where the job begins."""

    resumed: bool = False
    """Whether the record is that of an earlier run."""


def compare(
    models: Sequence[str | Path | HookedTransformer],
    tasks: Sequence[str | Task],
    methods: Sequence[Method] | Mapping[str, Method],
    *,
    out: str | os.PathLike[str],
    graph: GraphOf = ChannelGraph.from_model,
    ablation: Ablation | None = None,
    seeds: int | Sequence[int] = 1,
    target_loss: float = TARGET_LOSS,
    budgets: EdgeBudgets | None = None,
    random_draws: int = 3,
    questions: Questions | None = None,
    splits: SplitSizes | None = None,
    task_seed: int = 0,
    device: str | None = None,
    workers: int = 1,
    executor: JobExecutor | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Results:
    """Find and measure circuits for every model, task, method and seed.

    For each, the smallest circuit that meets a loss on the validation prompts is found with the
    same search, and it, its controls and a curve over edge budgets are measured on the held-out
    prompts. Each job's record is appended to `out/results.jsonl` as the job ends, its circuit and
    the circuit's drawing are saved in `out/circuits`; run again with the same settings, finished
    jobs are taken from there.
    A job that fails leaves a record with its traceback, and the others go on.

    Jobs run in this process, in `workers` processes of this machine, or through an `executor`. Only
    this process writes, so that workers need not see `out`; the results are in the same order,
    and the numbers the same, wherever jobs run (to the last bit, on the same device with the same
    number of threads). A model that was passed as an object travels with each of its jobs; one
    given by name or folder is loaded where the job runs. On interruption jobs that have not begun
    are cancelled, and those that `workers` are at are stopped.

    Args:
        models: names, folders of checkpoints, or models; each with its own graph and tokens.
        tasks: names from `sparse_lens.evals.tasks`, or tasks with all three splits.
        methods: with your own labels, or labelled by their registered names. Their `target_loss`
            is replaced by the comparison's.
        out: folder of the results; made if it is not there.
        graph: makes each model's graph.
        ablation: what absent nodes and edges carry; the mean over reference tokens if not given.
        seeds: how many, counted from 0, or which.
        target_loss: two-way loss in nats that the smallest circuit must meet.
        budgets: numbers of edges for the curve.
        random_draws: random circuits of the chosen one's size.
        questions: what else is asked of each circuit that met the target, as controls beside it;
            `Questions.none()` for nothing.
        splits: prompts per split, for tasks given by name.
        task_seed: of the prompts of tasks given by name; the same for all models.
        device: where models given by name are loaded.
        workers: processes that share out the jobs, and the threads that torch uses here. When one
            dies, its job has failed, and the others go on.
        executor: runs the jobs in place of `workers`: anything with the `submit` of
            `concurrent.futures`, such as a ProcessPoolExecutor, or `client.get_executor()` of
            dask.distributed for a cluster. Its set-up, threads included, is its owner's.
        progress: called as a job begins (which an executor does not tell) and as it ends.

    Raises:
        ValueError: for an unknown model or task, a model without such a graph, a target that is not
            positive, or no jobs at all.
        RuntimeError: when the executor breaks, or workers do not start; what ended is kept.
    """
    _check_where(workers, executor)
    jobs = plan(
        models,
        tasks,
        methods,
        graph=graph,
        ablation=ablation,
        seeds=seeds,
        target_loss=target_loss,
        budgets=budgets,
        random_draws=random_draws,
        questions=questions,
        splits=splits,
        task_seed=task_seed,
        device=device,
    )
    report = progress or _silent
    remaining = Counter(job.label for job in jobs)
    records: dict[int, Record] = {}

    def tell(place: int, record: Record | None, *, resumed: bool = False) -> None:
        job = jobs[place]
        if record is not None:
            records[place] = record
            remaining[job.label] -= 1
        labels = (job.model.label, job.task.name, job.label, job.seed)
        report(Progress(place + 1, len(jobs), *labels, dict(remaining), record, resumed))

    with ResultsWriter(out) as writer:
        for place, job in enumerate(jobs):
            earlier = writer.finished(job.id, order=place)
            if earlier is not None:
                tell(place, earlier, resumed=True)
        left = {place: job for place, job in enumerate(jobs) if place not in records}
        with closing(_start(left, workers, executor)) as happenings:
            for place, outcome in happenings:
                tell(place, None if outcome is None else keep(outcome, writer, order=place))
    return Results(tuple(records[place] for place in range(len(jobs))), Path(out))


def plan(
    models: Sequence[str | Path | HookedTransformer],
    tasks: Sequence[str | Task],
    methods: Sequence[Method] | Mapping[str, Method],
    *,
    graph: GraphOf = ChannelGraph.from_model,
    ablation: Ablation | None = None,
    seeds: int | Sequence[int] = 1,
    target_loss: float = TARGET_LOSS,
    budgets: EdgeBudgets | None = None,
    random_draws: int = 3,
    questions: Questions | None = None,
    splits: SplitSizes | None = None,
    task_seed: int = 0,
    device: str | None = None,
) -> tuple[Job, ...]:
    """The jobs of a comparison, in the order in which one process runs them; see `compare`."""
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    for name, given in (("models", models), ("tasks", tasks), ("methods", methods)):
        if isinstance(given, str):
            raise ValueError(f"{name} must be a list, got the string {given!r}; pass [{given!r}].")
        if not isinstance(given, (Sequence, Mapping)):
            raise ValueError(f"{name} must be a list, got {type(given).__name__}; pass [it].")
    if not (models and tasks and methods and seeds):
        raise ValueError(
            f"nothing to compare: got {len(models)} models, {len(tasks)} tasks, {len(methods)} "
            f"methods and {len(seeds)} seeds; at least one of each is needed."
        )
    if not 0 < target_loss < math.inf:
        raise ValueError(f"target_loss must be positive and finite, in nats, got {target_loss}.")
    _check_kinds(methods, graph, ablation)
    labelled = _labelled(methods)
    targeted = {
        label: replace(method, target_loss=target_loss) if takes_target(method) else method  # type: ignore[call-arg]
        for label, method in labelled.items()
    }
    asked = [TaskSource.of(task, splits or SplitSizes(), task_seed) for task in tasks]
    examined = [ModelSource.examine(model, graph, device=device) for model in models]
    _refuse_twins("models", [model.label for model in examined])
    _refuse_twins("tasks", [task.name for task in asked])
    _refuse_twins("seeds", [str(seed) for seed in seeds])
    return tuple(
        Job(
            model=model,
            task=task,
            label=label,
            method=method,
            ablation=ablation or MeanAblation(),
            seed=seed,
            target_loss=target_loss,
            budgets=budgets or EdgeBudgets(),
            random_draws=random_draws,
            questions=questions or Questions(),
        )
        for model in examined
        for task in asked
        for label, method in targeted.items()
        for seed in seeds
    )


def keep(outcome: Outcome, writer: ResultsWriter, *, order: int) -> Record:
    """Save an outcome: its files first, so that a record never names one that is missing.

    Args:
        order: the job's place in the comparison.
    """
    if outcome.record.circuit is not None and outcome.circuit is not None:
        circuit = writer.folder / outcome.record.circuit
        write_atomically(circuit, outcome.circuit)
        if outcome.drawing is not None:
            write_atomically(drawing_path(circuit), outcome.drawing)
    record = replace(outcome.record, order=order)
    writer.append(record)
    return record


def _check_where(workers: int, executor: JobExecutor | None) -> None:
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}.")
    if executor is None:
        return
    if workers != 1:
        raise ValueError(
            f"got an executor and workers={workers}: an executor has its own; pass one of them."
        )
    if not isinstance(executor, JobExecutor):
        raise ValueError(
            f"an executor has submit(function, *arguments) as in concurrent.futures, got "
            f"{executor!r}."
        )


def _start(jobs: Mapping[int, Job], workers: int, executor: JobExecutor | None) -> Happenings:
    if executor is not None:
        return on_executor(jobs, executor)
    return in_this_process(jobs) if workers == 1 else in_workers(jobs, workers)


def _check_kinds(methods: Iterable[object], graph: object, ablation: object) -> None:
    for method in methods.values() if isinstance(methods, Mapping) else methods:
        if not isinstance(method, Method):
            raise ValueError(
                f"methods are objects such as NodePruning(), got {method!r}; those that are "
                "installed are in sparse_lens.method.registry(), by name."
            )
    if not callable(graph):
        raise ValueError(
            f"graph makes each model's graph, as ComponentGraph.from_model does, got {graph!r}."
        )
    if ablation is not None and not isinstance(ablation, Ablation):
        raise ValueError(f"ablation is an object such as ZeroAblation(), got {ablation!r}.")


def _labelled(methods: Sequence[Method] | Mapping[str, Method]) -> dict[str, Method]:
    """Methods by registered name; where one occurs twice, with the fields that make it another."""
    if isinstance(methods, Mapping):
        return dict(methods)
    names = {cls: name for name, cls in registry().items()}
    plain = [names.get(type(method), type(method).__name__) for method in methods]
    counts = Counter(plain)
    labels = [
        name if counts[name] == 1 else " ".join([name, *_own_fields(method)])
        for name, method in zip(plain, methods, strict=True)
    ]
    _refuse_twins("methods", labels)
    return dict(zip(labels, methods, strict=True))


def _own_fields(method: Method) -> list[str]:
    """Fields that are not at their defaults."""
    return [
        f"{f.name}={getattr(method, f.name)}"
        for f in dataclasses.fields(method)
        if getattr(method, f.name) != _default(f)
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is dataclasses.MISSING:
        return field.default
    return field.default_factory()


def _refuse_twins(what: str, labels: list[str]) -> None:
    twins = sorted(label for label, count in Counter(labels).items() if count > 1)
    if twins:
        raise ValueError(
            f"{what} must differ, got {twins} more than once; their rows could not be told apart."
        )


def _silent(_: Progress) -> None:
    return None
