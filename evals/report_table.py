"""The report's table of all numbers, captions of circuits, and errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from sparse_lens.evals.records import MeasurementKind
from sparse_lens.evals.report_cells import Cell, Cells, Value, shared
from sparse_lens.plotting.network import Network


@dataclass(frozen=True)
class Column:
    """A column of numbers."""

    heading: str
    title: str
    kind: MeasurementKind
    value: Value
    form: str = ".3f"
    starts_group: bool = False
    of_all: Callable[[Sequence[int | float]], float] = fmean
    """One number out of those of all seeds and draws."""


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

QUESTION_COLUMNS = (
    Column("resampled", "two-way loss with absent values from other, randomly drawn prompts",
           "resample", lambda m: m.task_loss, ".3f", True),
    Column("frozen", "two-way loss with the scales of norms as in the full model",
           "frozen_norms", lambda m: m.task_loss),
    Column("subsets", "two-way loss with random parts of the rest ablated, mean over parts",
           "subset", lambda m: m.task_loss),
    Column("worst", "the same, of the worst part", "subset", lambda m: m.task_loss, of_all=max),
    Column("spare", "share of nodes whose removal alone does not hurt", "chosen",
           lambda m: m.dispensable_share, ".0%"),
)  # fmt: skip

_LEGEND = {
    "resample": (
        "resampled",
        "What is absent carries, in place of its ablated value, its value on another prompt of the "
        "split, drawn at random: a circuit that holds only with the values it was found with "
        "loses here.",
    ),
    "frozen_norms": (
        "frozen",
        "Norms divide by what they divide by in the full model: a circuit that works by rescaling "
        "what is left loses here.",
    ),
    "subset": (
        "subsets, worst",
        "Random parts of what the circuit leaves out are ablated, each alone, and all else is "
        "kept: where the circuit is all that matters, the loss stays that of the full model, on "
        "average and for the worst part.",
    ),
}
_SPARE = (
    "spare",
    "Of the circuit's nodes (some of them, drawn at random, in a large one), the share whose "
    "removal alone raises the two-way loss by less than {threshold} nats: 0% in a minimal circuit.",
)


def numbers_table(cells: Cells) -> str:
    """One row for each task, model and method: means over seeds, on held-out prompts."""
    asked = any(cell.values(c.kind, c.value) for cell in cells.cells for c in QUESTION_COLUMNS)
    columns = COLUMNS + QUESTION_COLUMNS if asked else COLUMNS
    questions = (
        '<th class="group" colspan="5">does the circuit hold: two-way loss, spare nodes</th>'
    )
    groups = (
        '<tr><th class="text" colspan="4"></th><th class="group" colspan="3">circuit</th>'
        '<th class="group" colspan="4">the circuit on held-out prompts</th>'
        '<th class="group" colspan="4">controls: two-way loss</th>'
        f"{questions if asked else ''}"
        '<th class="group" colspan="2">cost</th></tr>'
    )
    heads = "".join(f'<th{_group(c)} title="{escape(c.title)}">{c.heading}</th>' for c in columns)
    rows = "".join(_row(cells, cell, columns) for cell in cells.cells)
    return (
        '<div class="card table"><table class="sortable"><thead>'
        f'{groups}<tr><th class="text">Task</th><th class="text">Model</th>'
        '<th class="text">Method</th><th class="text">target</th>'
        f'{heads}<th class="group" title="of the discovery">seconds</th>'
        '<th title="forward passes of the discovery">passes</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def controls_legend(cells: Cells) -> str:
    """What the controls of the chosen circuit mean, one sentence for each that was measured."""
    measured = [m for record in cells.done for m in record.measurements]
    kinds = {m.kind for m in measured}
    entries = [entry for kind, entry in _LEGEND.items() if kind in kinds]
    if any(m.removed_nodes for m in measured):
        thresholds = [
            record.questions["dispensable_below"]
            for record in cells.done
            if record.questions and record.chosen.removed_nodes
        ]
        name, text = _SPARE
        entries.append((name, text.format(threshold=shared(thresholds))))
    if not entries:
        return ""
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in entries)
    return f'<div class="card"><dl>{listed}</dl></div>'


def _row(cells: Cells, cell: Cell, columns: Sequence[Column]) -> str:
    numbers = []
    for column in columns:
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
    value = column.of_all(values)
    spread = ""
    if len(values) > 1 and min(values) < max(values):
        low, high = format(min(values), column.form), format(max(values), column.form)
        spread = f' title="{low} to {high}"'
    return f'<td{_group(column)} data-value="{value}"{spread}>{format(value, column.form)}</td>'


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
