"""What a comparison comes to: who can do which task, mean sizes, and the dense-to-sparse ratio."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparse_lens.evals.counting import (
    EdgeCount,
    Unit,
    can_do,
    chosen_edges,
    edges_counted,
    nodes_counted,
    size_counted,
    unit_of,
)
from sparse_lens.evals.intervals import Spread, geometric_mean, spread_of
from sparse_lens.evals.records import Record
from sparse_lens.evals.wording import counted
from sparse_lens.identity import json_hash

SPARSE_BELOW = 0.5
"""A model with a smaller share of nonzero weights counts as sparse."""

LOSS_MATCHED = 0.05
"""Models whose pretraining losses differ by at most this, in nats a token, count as matched."""

RANDOM = "random"
"""Registered name of the control among the methods."""


@dataclass(frozen=True)
class Setting:
    """What must agree for edge counts to be comparable."""

    method: str
    graph: str
    ablation: str
    """Class name."""

    ablation_hash: str
    """Of all that describes it: other means or tokens are another setting."""

    target: str
    """What the chosen circuit had to meet, in words."""

    deterministic: bool = False
    """Whether the method has no randomness, and so no seeds."""

    @classmethod
    def of(cls, record: Record) -> Setting:
        """The setting of a record."""
        return cls(
            method=record.method,
            graph=record.graph,
            ablation=str(record.ablation["type"]),
            ablation_hash=json_hash(record.ablation),
            target=record.target_words,
            deterministic=record.deterministic,
        )


@dataclass(frozen=True)
class ModelSummary:
    """A model, and which tasks it can do by itself."""

    model: str
    nonzero_fraction: float
    n_parameters: int
    pretraining_loss: float | None
    """Nats a token on held-out pretraining text; None where unknown."""

    training_hash: str | None
    """Shared by models that are seeds of one another; see `Record.training_hash`."""

    can_do: tuple[str, ...]
    """Judged on the validation prompts, like every choice."""

    cannot_do: tuple[str, ...]

    @property
    def is_sparse(self) -> bool:
        """Whether most of its weights are zero."""
        return self.nonzero_fraction < SPARSE_BELOW


@dataclass(frozen=True)
class MeanSize:
    """Geometric means of sizes over the common tasks, of one model, method and seed."""

    setting: Setting
    model: str
    seed: int
    edges: float
    """An unmet target counts as the full graph's edges, zero edges as one."""

    nodes: float
    """Likewise."""

    graph_edges: int
    """Of the full graph."""

    graph_nodes: int
    unit: Unit
    """What to compare it in: see `unit_of`."""

    tasks: tuple[str, ...]
    """Those that the mean is over."""

    unmet: tuple[str, ...]
    """Tasks whose target no circuit met on validation: counted as the full graph."""

    zero: tuple[str, ...]
    """Tasks whose circuit has no edge: counted as one."""

    missed: tuple[str, ...]
    """Tasks whose circuit met the target on validation and misses it on held-out prompts; it is
    counted with its own size."""


@dataclass(frozen=True)
class Ratio:
    """How many times more edges, or nodes, a dense model needs than a sparse one."""

    setting: Setting
    unit: Unit
    dense: str
    sparse: str
    by_seed: Mapping[int, float]
    by_task: Mapping[str, float]
    """Geometric mean over seeds."""

    spread: Spread
    unmet: tuple[tuple[str, str, int], ...]
    """Model, task and seed of unmet targets: counted as the full graph, so not really a ratio of
    two circuits."""


@dataclass(frozen=True)
class Summary:
    """The headline of a comparison."""

    models: tuple[ModelSummary, ...]
    common_tasks: tuple[str, ...]
    """Tasks that all models can do."""

    means: tuple[MeanSize, ...]
    ratios: tuple[Ratio, ...]
    n_failed: int
    """Jobs that failed."""

    n_unanswered: int
    """Questions, over all jobs, that could not be answered."""

    statements: tuple[str, ...]
    """In words: the ratios, or why there are none. Those of models with several trained seeds are
    in `sparse_lens.evals.model_families`."""

    @property
    def failure_words(self) -> str:
        """What failed, in words; empty if nothing did."""
        failed = [
            f"{counted(self.n_failed, 'job')} failed" if self.n_failed else "",
            f"{counted(self.n_unanswered, 'question')} could not be answered"
            if self.n_unanswered
            else "",
        ]
        words = ", ".join(filter(None, failed))
        return words and f"{words}; the tracebacks are in the records."


def summarize(records: Iterable[Record], *, count: EdgeCount = "kept") -> Summary:
    """The headline of some records.

    Jobs that had nothing to find (`Record.control`) count in nothing but the failures.

    Args:
        count: which of a circuit's edges: all that it keeps, or those on a path from the input to
            the output.
    """
    everything = tuple(records)
    done = [r for r in everything if r.status == "done" and r.control is None]
    models = _models(done)
    common = _common(models)
    means, ratios = [], []
    for setting in dict.fromkeys(Setting.of(record) for record in done):
        of_setting = [r for r in done if Setting.of(r) == setting and r.task in common]
        complete = _complete(of_setting, [model.model for model in models])
        unit = unit_of(r for r in done if Setting.of(r) == setting)
        means += _means(setting, unit, complete, count)
        ratios += _ratios(setting, unit, complete, models, count)
    return Summary(
        models=models,
        common_tasks=common,
        means=tuple(means),
        ratios=tuple(ratios),
        n_failed=sum(record.status == "failed" for record in everything),
        n_unanswered=sum(len(record.question_errors) for record in everything),
        statements=_statements(models, common, ratios),
    )


def over_tasks(ratio: Ratio) -> str:
    """The spread of a ratio over tasks in words: an interval, or the range of a few tasks."""
    by_task, interval = ratio.by_task.values(), ratio.spread.interval
    if len(by_task) == 1:
        return "one task"
    if interval is None:
        return f"range over {len(by_task)} tasks: {min(by_task):.3g} to {max(by_task):.3g}"
    low, high = interval
    return f"95% interval over {len(by_task)} tasks: {low:.3g} to {high:.3g}"


def over_seeds(ratio: Ratio) -> str:
    """The range of a ratio over seeds, in words."""
    if ratio.setting.deterministic:
        return "deterministic"
    if len(ratio.by_seed) == 1:
        return "one seed"
    spread = ratio.spread
    return f"range over {len(ratio.by_seed)} seeds: {spread.minimum:.3g} to {spread.maximum:.3g}"


def families(models: Sequence[ModelSummary]) -> tuple[tuple[str, ...], ...]:
    """The models' names, those together that are seeds of one another."""
    groups: dict[str, list[str]] = {}
    for model in models:
        groups.setdefault(model.training_hash or f"alone: {model.model}", []).append(model.model)
    return tuple(tuple(group) for group in groups.values())


def pretraining_sentence(models: Sequence[ModelSummary]) -> str:
    """Whether the models predict text equally well, in words; empty where no loss is known.

    Circuits of a weaker model may be smaller because there is less to find.
    """
    losses = [m.pretraining_loss for m in models if m.pretraining_loss is not None]
    if not losses:
        return ""
    if len(losses) < len(models) or len(models) == 1:
        what = "Pretraining loss"
    elif max(losses) - min(losses) <= LOSS_MATCHED:
        what = "Loss-matched"
    else:
        what = "Not loss-matched"
    each = ", ".join(
        f"{m.model} {'unknown' if m.pretraining_loss is None else f'{m.pretraining_loss:.2f}'}"
        for m in models
    )
    return f"{what}: {each} (nats a token on held-out pretraining text)."


def _models(done: Sequence[Record]) -> tuple[ModelSummary, ...]:
    summaries = []
    for name in dict.fromkeys(record.model for record in done):
        by_task = {record.task: record for record in done if record.model == name}
        first = next(iter(by_task.values()))
        able = tuple(task for task, record in by_task.items() if can_do(record))
        summaries.append(
            ModelSummary(
                model=name,
                nonzero_fraction=first.nonzero_fraction,
                n_parameters=first.n_parameters,
                pretraining_loss=first.pretraining_loss,
                training_hash=first.training_hash,
                can_do=able,
                cannot_do=tuple(task for task in by_task if task not in able),
            )
        )
    return tuple(summaries)


def _common(models: Sequence[ModelSummary]) -> tuple[str, ...]:
    if not models:
        return ()
    return tuple(t for t in models[0].can_do if all(t in model.can_do for model in models))


def _complete(records: Sequence[Record], models: Sequence[str]) -> dict[str, list[Record]]:
    """By task, where every model has the same seeds: means over other tasks would not compare."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    seeds = {(r.model, r.seed) for r in records}
    wanted = {(model, seed) for model in models for _, seed in seeds}
    return {
        task: of_task
        for task, of_task in by_task.items()
        if {(record.model, record.seed) for record in of_task} == wanted
    }


def _means(
    setting: Setting, unit: Unit, by_task: Mapping[str, Sequence[Record]], count: EdgeCount
) -> list[MeanSize]:
    cells: dict[tuple[str, int], list[Record]] = {}
    for of_task in by_task.values():
        for record in of_task:
            cells.setdefault((record.model, record.seed), []).append(record)
    means = []
    for (model, seed), in_cell in cells.items():
        met = [record for record in in_cell if record.met_on_validation]
        means.append(
            MeanSize(
                setting=setting,
                model=model,
                seed=seed,
                edges=geometric_mean([edges_counted(record, count=count) for record in in_cell]),
                nodes=geometric_mean([nodes_counted(record, count=count) for record in in_cell]),
                graph_edges=in_cell[0].graph_edges,
                graph_nodes=in_cell[0].graph_nodes,
                unit=unit,
                tasks=tuple(record.task for record in in_cell),
                unmet=tuple(record.task for record in in_cell if not record.met_on_validation),
                zero=tuple(r.task for r in met if chosen_edges(r, count) == 0),
                missed=tuple(r.task for r in met if not r.met_on_held_out),
            )
        )
    return means


def _ratios(
    setting: Setting,
    unit: Unit,
    by_task: Mapping[str, Sequence[Record]],
    models: Sequence[ModelSummary],
    count: EdgeCount,
) -> list[Ratio]:
    if not by_task:
        return []
    logs = {
        (record.model, task, record.seed): math.log(size_counted(record, unit, count=count))
        for task, of_task in by_task.items()
        for record in of_task
    }
    seeds = list(dict.fromkeys(seed for _, _, seed in logs))
    ratios = []
    for sparse in (model.model for model in models if model.is_sparse):
        for dense in (model.model for model in models if not model.is_sparse):
            table = [  # a row a task, a column a seed
                [logs[dense, task, seed] - logs[sparse, task, seed] for seed in seeds]
                for task in by_task
            ]
            spread = spread_of(table)
            ratios.append(
                Ratio(
                    setting=setting,
                    unit=unit,
                    dense=dense,
                    sparse=sparse,
                    by_seed=dict(zip(seeds, spread.by_column, strict=True)),
                    by_task=dict(zip(by_task, spread.by_row, strict=True)),
                    spread=spread,
                    unmet=tuple(
                        (record.model, record.task, record.seed)
                        for of_task in by_task.values()
                        for record in of_task
                        if record.model in (dense, sparse) and not record.met_on_validation
                    ),
                )
            )
    return ratios


def _statements(
    models: Sequence[ModelSummary],
    common: Sequence[str],
    ratios: Sequence[Ratio],
) -> tuple[str, ...]:
    lines = []
    if models and not common:
        able = "; ".join(f"{m.model} can do {', '.join(m.can_do) or 'none'}" for m in models)
        lines.append(
            "No task can be done by all models, so their circuits' sizes cannot be compared "
            f"({able})."
        )
    elif models and len({m.is_sparse for m in models}) == 1:
        kind = "sparse" if models[0].is_sparse else "dense"
        lines.append(f"All models are {kind}: there is no dense-to-sparse ratio.")
    with_siblings = {name for family in families(models) if len(family) > 1 for name in family}
    lines += [
        _sentence(ratio) for ratio in ratios if not {ratio.dense, ratio.sparse} & with_siblings
    ]
    return tuple(lines)


def _sentence(ratio: Ratio) -> str:
    unmet = ""
    if ratio.unmet:
        n_targets = 2 * len(ratio.by_task) * len(ratio.by_seed)
        unmet = (
            f" {len(ratio.unmet)} of {n_targets} targets were not met and count as the full graph."
        )
    return (
        f"{ratio.setting.method}: {ratio.dense} needs {ratio.spread.mean:.3g} times as many "
        f"{ratio.unit} as {ratio.sparse} ({over_tasks(ratio)}; {over_seeds(ratio)}).{unmet}"
    )
