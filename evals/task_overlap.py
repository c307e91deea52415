"""Whether circuits of different tasks are made of the same parts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from sparse_lens.circuit_io import SavedParts
from sparse_lens.evals.records import Record
from sparse_lens.evals.results import Results
from sparse_lens.evals.summary import Setting


@dataclass(frozen=True)
class TaskOverlap:
    """Two tasks' circuits, found by one method in one model.

    Two styles of prompts for one behaviour are two tasks: so the same measures whether a circuit is
    one of the behaviour or one of the style.
    """

    setting: Setting
    model: str
    tasks: tuple[str, str]
    iou: float
    """What both circuits keep over what either keeps (nodes, or edges where the circuits are given
    by these); mean over the seeds that met the target on both tasks."""

    by_chance: float
    """The same for random circuits of these sizes: the expected intersection over the union that
    it leaves. Large circuits overlap whatever they are for."""

    n_seeds: int


def task_overlaps(results: Results) -> tuple[TaskOverlap, ...]:
    """Every pair of tasks with circuits that met the target, by method and model.

    Nothing for results that belong to no folder, since circuits are in files.

    Raises:
        FileNotFoundError: when a circuit's file is missing.
    """
    if results.folder is None:
        return ()
    groups: dict[tuple[Setting, str], dict[str, dict[int, Record]]] = {}
    for record in results.done:
        if record.met_on_validation and record.control is None:
            by_task = groups.setdefault((Setting.of(record), record.model), {})
            by_task.setdefault(record.task, {})[record.seed] = record
    overlaps = []
    for (setting, model), by_task in groups.items():
        saved = {
            (task, seed): SavedParts.read(results.circuit_path(record))
            for task, by_seed in by_task.items()
            for seed, record in by_seed.items()
        }
        for first, second in combinations(by_task, 2):
            seeds = [seed for seed in by_task[first] if seed in by_task[second]]
            if not seeds:
                continue
            n_parts = _n_parts(by_task[first][seeds[0]])
            pairs = [(saved[first, seed], saved[second, seed]) for seed in seeds]
            overlaps.append(
                TaskOverlap(
                    setting=setting,
                    model=model,
                    tasks=(first, second),
                    iou=fmean(a.iou(b) for a, b in pairs),
                    by_chance=fmean(chance_iou(len(a), len(b), n_parts) for a, b in pairs),
                    n_seeds=len(seeds),
                )
            )
    return tuple(overlaps)


def chance_iou(n_one: int, n_other: int, n_parts: int) -> float:
    """Expected intersection of two random sets over the union that it leaves.

    Args:
        n_parts: what the sets are drawn from.
    """
    both = n_one * n_other / n_parts if n_parts else 0.0
    either = n_one + n_other - both
    return both / either if either else 1.0


def _n_parts(record: Record) -> int:
    return record.graph_nodes if record.circuit_given_by == "nodes" else record.graph_edges
