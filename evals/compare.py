"""A comparison: every model, task, method and seed is a job, and every job leaves a record."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import TypedDict

from transformer_lens import HookedTransformer
from typing_extensions import Unpack

from sparse_lens.ablation import Ablation
from sparse_lens.evals.budgets import EdgeBudgets
from sparse_lens.evals.harness.executing import JobExecutor
from sparse_lens.evals.harness.jobs import Job
from sparse_lens.evals.harness.nothing_to_find import NO_CONTROLS, NothingToFind
from sparse_lens.evals.harness.running import Progress, check_workers, run_jobs
from sparse_lens.evals.harness.settings import JobSettings
from sparse_lens.evals.harness.sources import GraphOf, ModelSource, TaskSource
from sparse_lens.evals.labels import check_list, check_objects, labelled, refuse_duplicates
from sparse_lens.evals.question import Question
from sparse_lens.evals.results import Results
from sparse_lens.evals.tasks import SplitSizes
from sparse_lens.evals.tasks.splits import USUAL_SIZES
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.method import Method
from sparse_lens.method import registry as method_registry
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.target import Target
from sparse_lens.task import Task


@dataclass(frozen=True, eq=False)
class Comparison(JobSettings):
    """A comparison of methods on tasks in models; each combination and each seed is one job.

    A job finds a small circuit that meets a target on the validation prompts, by the search of its
    method (for a method that only ranks, that of `sparse_lens.search`). It measures this circuit,
    its controls and a curve over edge budgets on the held-out prompts. `dataclasses.replace` makes
    variations of a comparison.

    Raises:
        ValueError: for an unknown task, a method, objective, target or graph of the wrong type,
            duplicate labels, methods that objective and target make the same, or nothing to
            compare.
    """

    models: Sequence[str | Path | HookedTransformer]
    """Names, folders of checkpoints, or models; each with its own graph and tokens."""

    tasks: Sequence[str | Task]
    """Names from `sparse_lens.evals.tasks`, or tasks with all three splits."""

    methods: Sequence[Method] | Mapping[str, Method]
    """A mapping by label, or a list that is labelled by registered names."""

    objective: Objective | None = field(default=TaskLoss(), kw_only=True)
    """The loss that every method works on, in place of its own `objective`. By default the task
    loss, since circuits are judged by it, and a method that minimises another loss would be at a
    disadvantage. None leaves each method its own."""

    graph: GraphOf = field(default=ChannelGraph.from_model, kw_only=True)
    """Function that makes a model's graph."""

    seeds: int | Sequence[int] = field(default=1, kw_only=True)
    """The number of seeds, counted from 0, or the seeds. A method that is deterministic
    (`Method.is_deterministic`) runs once for each model and task, with the first of them."""

    splits: SplitSizes = field(default=USUAL_SIZES, kw_only=True)
    """Number of prompts per split, for tasks given by name."""

    task_seed: int = field(default=0, kw_only=True)
    """Seed of the prompts of tasks given by name; the same for all models."""

    controls: NothingToFind = field(default=NO_CONTROLS, kw_only=True)
    """Jobs beside these in which there is nothing to find; none by default."""

    device: str | None = field(default=None, kw_only=True)
    """Device on which models given by name are loaded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list("models", self.models)
        check_list("tasks", self.tasks)
        check_objects("methods", self.methods, Method, "NodePruning()")
        seeds = self._seeds()
        if not (self.models and self.tasks and self.methods and seeds):
            raise ValueError(
                f"nothing to compare: got {len(self.models)} models, {len(self.tasks)} tasks, "
                f"{len(self.methods)} methods and {len(seeds)} seeds; at least one of each is "
                "needed."
            )
        if not isinstance(self.splits, SplitSizes):
            raise ValueError(f"splits is SplitSizes(n_train=...), got {self.splits!r}.")
        if not callable(self.graph):
            raise ValueError(
                "graph makes each model's graph, as ComponentGraph.from_model does, got "
                f"{self.graph!r}."
            )
        if not (self.objective is None or isinstance(self.objective, Objective)):
            raise ValueError(
                f"objective is an object such as TaskLoss(), or None, got {self.objective!r}."
            )
        if not isinstance(self.controls, NothingToFind):
            raise ValueError(f"controls is NothingToFind(...), got {self.controls!r}.")
        self._check_what_is_replaced()
        sources = [*self._task_sources(), *self._tasks_without_rule()]
        refuse_duplicates("tasks", [task.name for task in sources])
        refuse_duplicates("seeds", [str(seed) for seed in seeds])

    @property
    def named_methods(self) -> dict[str, Method]:
        """The methods by the labels under which they are recorded.

        Raises:
            ValueError: when two have the same label.
        """
        return labelled("methods", self.methods, method_registry)

    @property
    def compared_methods(self) -> dict[str, Method]:
        """The methods as jobs run them: the comparison's target and objective replace their own."""
        return {label: self._compared(method) for label, method in self.named_methods.items()}

    def jobs(self) -> tuple[Job, ...]:
        """The jobs in the order in which one process runs them; loads each model once.

        Raises:
            ValueError: for an unknown model, a model without such a graph, or two models with the
                same label.
        """
        models = [
            ModelSource.examine(model, self.graph, device=self.device) for model in self.models
        ]
        twins = self.controls.models_beside(models)
        refuse_duplicates("models", [model.label for model in (*models, *twins)])
        own, without_rule = self._task_sources(), self._tasks_without_rule()
        seeds, first_seed = self._seeds(), self._seeds()[:1]
        jobs: list[Job] = []
        for model in models:  # all jobs of a model in a row, because it is loaded for each row
            jobs += self._jobs_of(model, own, seeds)
            jobs += self._jobs_of(model, without_rule, first_seed)
        for twin in twins:
            jobs += self._jobs_of(twin, own[: self.controls.random_tasks], first_seed)
        return tuple(jobs)

    def run(
        self,
        out: str | os.PathLike[str],
        *,
        workers: int = 1,
        executor: JobExecutor | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Results:
        """Run all jobs, or those that an earlier run in the same folder has not finished.

        Each job's record is appended to `out/results.jsonl` as the job ends, its circuit and the
        circuit's drawing are saved in `out/circuits`. A job that fails leaves a record with its
        traceback, and the others go on.

        Jobs run in this process, in `workers` processes of this machine, or through an `executor`.
        Only this process writes, so that workers need not see `out`; the results are in the same
        order, and the numbers the same, wherever jobs run (to the last bit, on the same device with
        the same number of threads). A model that was passed as an object travels with each of its
        jobs; one given by name or folder is loaded where the job runs. On interruption jobs that
        have not begun are cancelled, and those that `workers` run are stopped.

        Args:
            out: folder of the results; made if it is not there.
            workers: processes that share out the jobs, and the threads that torch uses here. When
                one dies, its job has failed, and the others go on.
            executor: runs the jobs in place of `workers`: anything with the `submit` of
                `concurrent.futures`, such as a ProcessPoolExecutor, or `client.get_executor()` of
                dask.distributed for a cluster. Its set-up, threads included, is its owner's.
            progress: called as a job begins (which an executor does not report) and as it ends.

        Raises:
            ValueError: see :meth:`jobs`; or for workers beside an executor.
            RuntimeError: when the executor breaks, or workers do not start; what ended is kept.
        """
        check_workers(workers, executor)
        return run_jobs(self.jobs(), out, workers=workers, executor=executor, progress=progress)

    def _jobs_of(
        self, model: ModelSource, tasks: Sequence[TaskSource], seeds: Sequence[int]
    ) -> list[Job]:
        settings = self._job_settings()
        return [
            Job(settings=settings, model=model, task=task, label=label, method=method, seed=seed)
            for task in tasks
            for label, method in self.compared_methods.items()
            for seed in (seeds[:1] if method.is_deterministic else seeds)
        ]

    def _compared(self, method: Method) -> Method:
        if self.target is not None:
            method = method.with_common(target=self.target)
        return method if self.objective is None else replace(method, objective=self.objective)

    def _check_what_is_replaced(self) -> None:
        """Refuse methods that differ only in what the comparison replaces in both."""
        given, compared = self.named_methods, self.compared_methods
        for first, second in combinations(given, 2):
            if given[first] != given[second] and compared[first] == compared[second]:
                raise ValueError(
                    f"methods {first!r} and {second!r} are the same once the comparison's target "
                    f"({self.target}) and objective ({self.objective}) replace their own: pass "
                    "target=None to leave each method its target, and objective=None to leave each "
                    "its objective."
                )

    def _seeds(self) -> Sequence[int]:
        return range(self.seeds) if isinstance(self.seeds, int) else self.seeds

    def _task_sources(self) -> list[TaskSource]:
        return [TaskSource.of(task, self.splits, self.task_seed) for task in self.tasks]

    def _tasks_without_rule(self) -> list[TaskSource]:
        return [
            TaskSource.of(task, self.splits, self.task_seed, is_control=True)
            for task in self.controls.tasks_beside(self.tasks)
        ]

    def _job_settings(self) -> JobSettings:
        """The settings alone, because jobs are sent to other processes and models are large."""
        shared = {f.name: getattr(self, f.name) for f in fields(JobSettings)}
        return JobSettings(**{**shared, "questions": self.named_questions})


class ComparisonSettings(TypedDict, total=False):
    """The fields of `Comparison` that have defaults, as keyword arguments of `compare`."""

    ablation: Ablation
    target: Target | None
    budgets: EdgeBudgets
    random_draws: int
    questions: Sequence[Question] | Mapping[str, Question]
    objective: Objective | None
    graph: GraphOf
    seeds: int | Sequence[int]
    splits: SplitSizes
    task_seed: int
    controls: NothingToFind
    device: str | None


def compare(
    models: Sequence[str | Path | HookedTransformer],
    tasks: Sequence[str | Task],
    methods: Sequence[Method] | Mapping[str, Method],
    *,
    out: str | os.PathLike[str],
    workers: int = 1,
    executor: JobExecutor | None = None,
    progress: Callable[[Progress], None] | None = None,
    **settings: Unpack[ComparisonSettings],
) -> Results:
    """Find and measure circuits for every model, task, method and seed.

    `Comparison(models, tasks, methods, **settings).run(out, ...)` in one call: see the fields of
    `Comparison` for the settings (`graph`, `ablation`, `seeds`, `target`, `objective`,
    `questions`, ...), and `Comparison.run` for the other arguments.
    """
    comparison = Comparison(models, tasks, methods, **settings)
    return comparison.run(out, workers=workers, executor=executor, progress=progress)
