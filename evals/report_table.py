"""The report's table of all numbers, captions of circuits, and errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from sparse_lens.evals.records import Measurement, MeasurementKind
from sparse_lens.evals.report_cells import Cell, Cells
from sparse_lens.plotting.network import Network


@dataclass(frozen=True)
class Column:
    """A column of numbers."""

    heading: str
    title: str
    kind: MeasurementKind
    value: Callable[[Measurement], int | float]
    form: str = ".3f"
    starts_group: bool = False


COLUMNS = (
    Column("edges", "edges that the circuit keeps", "chosen", lambda m: m.n_edges, ",.0f", True),
    Column("paths", "of these, on a path from input to output", "chosen",
           lambda m: m.connected_edges, ",.0f"),
    Column("nodes", "nodes that the circuit keeps", "chosen", lambda m: m.n_nodes, ",.0f"),
    Column("loss", "two-way loss, nats", "chosen", lambda m: m.task_loss, ".3f", True),
    Column("KL", "KL(full || circuit), nats", "chosen", lambda m: m.kl),
    Column("accuracy", "of answer against distractor", "chosen", lambda m: m.accuracy, ".1%"),
    Column("match", "the same most likely token as the full model", "chosen",
           lambda m: m.exact_match, ".1%"),
    Column("full", "two-way loss of the full model", "full", lambda m: m.task_loss, ".3f", True),
    Column("random", "two-way loss of random circuits of the same size", "random",
           lambda m: m.task_loss),
    Column("empty", "two-way loss with everything ablated", "empty", lambda m: m.task_loss),
    Column("ablated", "two-way loss with the circuit ablated and the rest kept", "chosen",
           lambda m: m.necessity_task_loss),
)  # fmt: skip


def numbers_table(cells: Cells) -> str:
    """One row for each task, model and method: means over seeds, on held-out prompts."""
    groups = (
        '<tr><th class="text" colspan="4"></th><th class="group" colspan="3">circuit</th>'
        '<th class="group" colspan="4">the circuit on held-out prompts</th>'
        '<th class="group" colspan="4">controls: two-way loss</th>'
        '<th class="group" colspan="2">cost</th></tr>'
    )
    heads = "".join(f'<th{_group(c)} title="{escape(c.title)}">{c.heading}</th>' for c in COLUMNS)
    rows = "".join(_row(cells, cell) for cell in cells.cells)
    return (
        '<div class="card table"><table class="sortable"><thead>'
        f'{groups}<tr><th class="text">Task</th><th class="text">Model</th>'
        '<th class="text">Method</th><th class="text">target</th>'
        f'{heads}<th class="group" title="of the discovery">seconds</th>'
        '<th title="forward passes of the discovery">passes</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(cells: Cells, cell: Cell) -> str:
    numbers = []
    for column in COLUMNS:
        values = cell.values(column.kind, column.value)
        numbers.append(_cell(column, values))
    seconds = sum(record.seconds for record in cell.records) / len(cell.records)
    passes = sum(record.forward_passes for record in cell.records) / len(cell.records)
    return (
        f'<tr{"" if cell.met else " class=unmet"}><td class="text">{escape(cell.task)}</td>'
        f'<td class="text">{escape(cell.model)}</td>'
        f'<td class="text">{escape(cells.setting_name(cell.setting))}</td>'
        f'<td class="text">{_verdict(cell)}</td>{"".join(numbers)}'
        f'<td class="group" data-value="{seconds}">{seconds:,.1f}</td>'
        f'<td data-value="{passes}">{passes:,.0f}</td></tr>'
    )


def _cell(column: Column, values: Sequence[int | float]) -> str:
    if not values:
        return f'<td{_group(column)} data-value="">-</td>'
    mean = sum(values) / len(values)
    spread = ""
    if len(values) > 1 and min(values) < max(values):
        low, high = format(min(values), column.form), format(max(values), column.form)
        spread = f' title="{low} to {high}"'
    return f'<td{_group(column)} data-value="{mean}"{spread}>{format(mean, column.form)}</td>'


def _verdict(cell: Cell) -> str:
    if not cell.met:
        failed = sum(not record.met_on_validation for record in cell.records)
        some = f" ({failed} of {len(cell.records)} seeds)" if failed < len(cell.records) else ""
        return f'<span class="mark">unmet{some}</span>'
    if not cell.met_on_held_out:
        return (
            '<span class="mark" title="met on validation, missed on held-out prompts">missed</span>'
        )
    return "met"


def _group(column: Column) -> str:
    return ' class="group"' if column.starts_group else ""


def circuit_caption(cell: Cell, network: Network | None) -> str:
    """What is to be known about a circuit that is drawn, as HTML."""
    record = next((r for r in cell.records if r.met_on_validation), cell.first)
    if not record.met_on_validation:
        return (
            f'<span class="mark">No circuit met the target</span> of {record.target_loss} nats, so '
            f"none is drawn: the full graph has {record.graph_edges:,} edges."
        )
    m = record.chosen
    parts = [
        f"<b>{m.n_edges:,} edges</b> between {m.n_nodes:,} nodes",
        f"{m.connected_edges:,} edges, {m.connected_nodes:,} nodes on paths from input to output",
        f"two-way loss {m.task_loss:.3f}",
        f"KL {m.kl:.3f}",
        f"accuracy {m.accuracy:.1%}",
        f"ablated: loss {m.necessity_task_loss:.3f}",
        f"seed {record.seed}",
    ]
    text = " · ".join(parts)
    if not record.met_on_held_out:
        text += ' · <span class="mark">misses the target on held-out prompts</span>'
    if network is None:
        text += (
            '<br><span class="mark">Not drawn:</span> no drawing is kept beside the circuit; run '
            "the comparison again."
        )
    return text


def failures(cells: Cells) -> str:
    """The errors of jobs that failed, as HTML; empty when none did."""
    failed = [record for record in cells.records if record.status == "failed"]
    if not failed:
        return ""
    items = []
    for record in failed:
        where = f"{record.task}, {record.model}, {record.method}, seed {record.seed}"
        last = ((record.error or "").strip().splitlines() or [""])[-1]
        items.append(
            f"<details><summary>{escape(where)}: {escape(last)}</summary>"
            f"<pre>{escape(record.error or '')}</pre></details>"
        )
    return f'<h2 id="failed">Jobs that failed</h2><div class="card">{"".join(items)}</div>'
