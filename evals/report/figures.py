"""The report's figures, made from its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparse_lens.evals.counting import Unit
from sparse_lens.evals.records import Measurement, Record
from sparse_lens.evals.report.cells import Cell, Cells
from sparse_lens.evals.summary import RANDOM, Ratio, Setting
from sparse_lens.plotting.curves import Curve, curves_spec
from sparse_lens.plotting.sizes import SizeRow, sizes_spec
from sparse_lens.plotting.spec import Spec

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Metric:
    """What a curve shows of a measurement."""

    field: str
    label: str
    log: bool = False
    has_target: bool = False

    def of(self, measurement: Measurement) -> float:
        """Its value."""
        return float(getattr(measurement, self.field))


METRICS = (
    Metric("task_loss", "Two-way loss, nats", log=True, has_target=True),
    Metric("kl", "KL(full || circuit), nats", log=True),
    Metric("accuracy", "Accuracy"),
    Metric("exact_match", "Exact match"),
    Metric("necessity_task_loss", "Loss without the circuit, nats", log=True),
)


def task_curves(cells: Cells, task: str, metric: Metric) -> Spec:
    """One metric over the number of edges, for every model and method."""
    curves, targets = [], []
    for model in cells.models:
        for setting in cells.settings:
            cell = cells.cell(task, model, setting)
            if cell is not None:
                curves.append(_curve(cells, cell, metric))
                targets.append(cell.first.target_loss)
    target = targets[0] if metric.has_target and len(set(targets)) == 1 else None
    return curves_spec(curves, log_y=metric.log, level=target, legend=False, height=250)


def _curve(cells: Cells, cell: Cell, metric: Metric) -> Curve:
    by_budget: dict[int, list[Measurement]] = {}
    for record in cell.records:
        for measurement in record.curve:
            by_budget.setdefault(measurement.requested_edges or 0, []).append(measurement)
    points = sorted(
        (fmean(m.n_edges for m in of_budget), fmean(metric.of(m) for m in of_budget))
        for of_budget in by_budget.values()
    )
    return Curve(
        name=f"{cell.model}, {cells.setting_name(cell.setting)}",
        colour=cells.colour(cell.model),
        style=cells.style(cell.setting),
        edges=[edges for edges, _ in points],
        values=[value for _, value in points],
        marks=tuple(_marks(cells, cell, metric)),
    )


def _marks(cells: Cells, cell: Cell, metric: Metric) -> Iterator[tuple[int | float, float, str]]:
    """Each seed's circuit, the mean of random ones, and once a model the full and the empty one."""
    if cell.setting.method != RANDOM:
        for record in cell.records:
            if record.met_on_validation:
                yield record.chosen.n_edges, metric.of(record.chosen), "chosen"
    if cell.setting.method != RANDOM and cell.met:
        edges, value = cell.mean("random", lambda m: m.n_edges), cell.mean("random", metric.of)
        if edges is not None and value is not None:
            yield edges, value, "random"
    if cell.setting == cells.settings[0]:
        for kind in ("full", "empty"):
            for m in cell.first.of_kind(kind):
                yield m.n_edges, metric.of(m), kind


def setting_sizes(cells: Cells, setting: Setting, ratios: Sequence[Ratio]) -> Spec:
    """Sizes of the chosen circuits of one method task by task, with losses and controls."""
    tasks: dict[str, list[SizeRow]] = {}
    targets = set()
    for task in cells.tasks:
        rows = []
        for model in cells.models:
            cell = cells.cell(task, model, setting)
            if cell is not None:
                rows.append(_size_row(cells, cell, ratios))
                targets.add(cell.first.target_loss)
        if rows:
            tasks[task] = rows
    return sizes_spec(
        tasks,
        target_loss=targets.pop() if len(targets) == 1 else None,
        unit=cells.unit(setting),
    )


def _size_row(cells: Cells, cell: Cell, ratios: Sequence[Ratio]) -> SizeRow:
    of_cell = [r for r in ratios if r.dense == cell.model and cell.task in r.by_task]
    losses: Mapping[str, float | None] = {
        "chosen": cell.mean("chosen", lambda m: m.task_loss),
        "full": cell.mean("full", lambda m: m.task_loss),
        "random": cell.mean("random", lambda m: m.task_loss) if cell.met else None,
        "empty": cell.mean("empty", lambda m: m.task_loss),
        "ablated": cell.mean("chosen", lambda m: m.necessity_task_loss) if cell.met else None,
    }
    return SizeRow(
        model=cell.model,
        colour=cells.colour(cell.model),
        sizes=tuple(_size(record, cell.unit) for record in cell.records),
        met=tuple(record.met_on_validation for record in cell.records),
        losses={kind: loss for kind, loss in losses.items() if loss is not None},
        note=ratio_note([ratio.by_task[cell.task] for ratio in of_cell]),
    )


def _size(record: Record, unit: Unit) -> float:
    """Of the chosen circuit, or of the full graph where none met the target."""
    nodes, edges = record.graph_nodes, record.graph_edges
    if record.met_on_validation:
        nodes, edges = record.chosen.n_nodes, record.chosen.n_edges
    return float(nodes if unit == "nodes" else edges)


def ratio_note(ratios: Sequence[float]) -> str:
    """One ratio, or from the smallest to the largest: there is no room for more."""
    if not ratios:
        return ""
    low, high = f"{min(ratios):.3g}", f"{max(ratios):.3g}"
    return f"{TIMES} {low}" if low == high else f"{TIMES} {low} to {high}"
