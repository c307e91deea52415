"""Ratios of dense to sparse models over several trained seeds of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.evals.counting import Unit, size_counted
from sparse_lens.evals.evidence import counted_records
from sparse_lens.evals.intervals import FEWEST_FOR_INTERVAL, crossed_interval
from sparse_lens.evals.records import Record
from sparse_lens.evals.summary import Setting, Summary, families
from sparse_lens.evals.wording import counted


@dataclass(frozen=True)
class FamilyRatio:
    """How many times larger the circuits of dense models are than those of sparse ones.

    Geometric means over tasks, over the models of a family, which are seeds of one another, and
    over the seeds of the method.
    """

    setting: Setting
    unit: Unit
    dense: tuple[str, ...]
    sparse: tuple[str, ...]
    mean: float

    by_task: Mapping[str, float]
    by_pair: Mapping[tuple[str, str], float]
    """Of every dense and every sparse model."""

    interval: tuple[float, float] | None
    """Ends of the 95% interval over tasks and trained models (see `crossed_interval`); None for
    fewer tasks than `FEWEST_FOR_INTERVAL`."""

    @property
    def sentence(self) -> str:
        """In words."""
        return (
            f"{self.setting.method}: {family_name(self.dense)} needs {self.mean:.3g} times as many "
            f"{self.unit} as {family_name(self.sparse)} ({self._over_tasks}; "
            f"range over {len(self.by_pair)} pairs of models: {_range(self.by_pair.values())})."
        )

    @property
    def _over_tasks(self) -> str:
        tasks = counted(len(self.by_task), "task")
        if self.interval is None:
            return f"range over {tasks}: {_range(self.by_task.values())}"
        return f"95% interval over {tasks} and trained models: {_range(self.interval)}"


def family_ratios(records: Iterable[Record], summary: Summary) -> tuple[FamilyRatio, ...]:
    """The ratios of all families, dense to sparse, where either has several models.

    They are over the tasks and seeds that the summary counts.
    """
    logs: dict[Setting, dict[tuple[str, str], list[float]]] = {}
    units: dict[Setting, Unit] = {mean.setting: mean.unit for mean in summary.means}
    for record in counted_records(records, summary):
        setting = Setting.of(record)
        size = size_counted(record, units[setting])
        of_setting = logs.setdefault(setting, {})
        of_setting.setdefault((record.task, record.model), []).append(math.log(size))
    is_sparse = {model.model: model.is_sparse for model in summary.models}
    of_kind = {
        kind: [group for group in families(summary.models) if is_sparse[group[0]] is kind]
        for kind in (True, False)
    }
    return tuple(
        _ratio(setting, units[setting], dense, sparse, sizes)
        for setting, sizes in logs.items()
        for sparse in of_kind[True]
        for dense in of_kind[False]
        if len(sparse) > 1 or len(dense) > 1
    )


def family_name(models: Sequence[str]) -> str:
    """What their names have in common, such as `py-sparse (3 trained seeds)` of `py-sparse-s0`."""
    if len(models) == 1:
        return models[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*models, strict=False))
    shared = re.sub(r"[-_. ]+(seed|s)?[-_. ]*\d*$", "", "".join(letters[0] for letters in alike))
    return f"{shared or ', '.join(models)} ({len(models)} trained seeds)"


def _ratio(
    setting: Setting,
    unit: Unit,
    dense: tuple[str, ...],
    sparse: tuple[str, ...],
    sizes: Mapping[tuple[str, str], Sequence[float]],
) -> FamilyRatio:
    tasks = list(dict.fromkeys(task for task, _ in sizes))

    def table(models: Sequence[str]) -> Float[Tensor, "tasks models"]:
        rows = [[math.fsum(of := sizes[task, m]) / len(of) for m in models] for task in tasks]
        return torch.tensor(rows, dtype=torch.float64)

    of_dense, of_sparse = table(dense), table(sparse)
    by_task = (of_dense.mean(1) - of_sparse.mean(1)).exp().tolist()
    by_pair = (of_dense.mean(0)[:, None] - of_sparse.mean(0)).exp().flatten().tolist()
    interval = None
    if len(tasks) >= FEWEST_FOR_INTERVAL:
        low, high = crossed_interval(of_dense, of_sparse)
        interval = math.exp(low), math.exp(high)
    return FamilyRatio(
        setting=setting,
        unit=unit,
        dense=dense,
        sparse=sparse,
        mean=math.exp(float(of_dense.mean() - of_sparse.mean())),
        by_task=dict(zip(tasks, by_task, strict=True)),
        by_pair=dict(zip([(d, s) for d in dense for s in sparse], by_pair, strict=True)),
        interval=interval,
    )


def _range(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]:.3g} to {ordered[-1]:.3g}"
