"""Whether a method finds the same circuit again: agreement over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from sparse_lens.circuit_io import SavedParts
from sparse_lens.evals.records import Record
from sparse_lens.evals.results import Results
from sparse_lens.evals.summary import Setting


@dataclass(frozen=True)
class Stability:
    """Agreement of the circuits that one method found with several seeds for a model and a task."""

    setting: Setting
    model: str
    task: str
    seeds: tuple[int, ...]
    """Those whose circuit met the target on validation: the others' circuit is the full graph."""

    ious: tuple[float, ...]
    """What two circuits both keep over what either keeps (nodes, or edges where the circuits are
    given by these), of every pair."""

    @property
    def mean_iou(self) -> float:
        """Mean over pairs of seeds."""
        return fmean(self.ious)


def stability(results: Results) -> tuple[Stability, ...]:
    """Agreement over seeds, wherever two or more of them found a circuit.

    Nothing for results that belong to no folder, since circuits are in files.

    Raises:
        FileNotFoundError: when a circuit's file is missing.
    """
    if results.folder is None:
        return ()
    groups: dict[tuple[Setting, str, str], list[Record]] = {}
    for record in results.done:
        if record.met_on_validation and record.control is None:
            key = (Setting.of(record), record.model, record.task)
            groups.setdefault(key, []).append(record)
    stabilities = []
    for (setting, model, task), records in groups.items():
        records.sort(key=lambda record: record.seed)
        if len(records) > 1:
            saved = [SavedParts.read(results.circuit_path(record)) for record in records]
            seeds = tuple(record.seed for record in records)
            ious = tuple(first.iou(second) for first, second in combinations(saved, 2))
            stabilities.append(Stability(setting, model, task, seeds, ious))
    return tuple(stabilities)


def mean_over_tasks(stabilities: Sequence[Stability]) -> dict[tuple[Setting, str], float]:
    """Of the mean IoUs, by setting and model."""
    by_key: dict[tuple[Setting, str], list[float]] = {}
    for stability in stabilities:
        by_key.setdefault((stability.setting, stability.model), []).append(stability.mean_iou)
    return {key: fmean(means) for key, means in by_key.items()}


def sentences(stabilities: Sequence[Stability]) -> tuple[str, ...]:
    """The same in words, one for each method."""
    by_method: dict[Setting, list[str]] = {}
    for (setting, model), mean in mean_over_tasks(stabilities).items():
        by_method.setdefault(setting, []).append(f"{mean:.2f} on {model}")
    lines = []
    for setting, means in by_method.items():
        counts = [len(each.seeds) for each in stabilities if each.setting == setting]
        seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
        lines.append(
            f"{setting.method}: mean pairwise IoU of circuits over {seeds} seeds "
            f"{', '.join(means)}."
        )
    return tuple(lines)
