"""The report's tables of all numbers, captions of circuits, and errors."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from sparse_lens.evals.report.cells import Cell, Cells
from sparse_lens.evals.report.columns import CIRCUITS, Group, TableColumn, controls, meanings
from sparse_lens.plotting.network import Network

UNMET = "no circuit met the target on validation: counted as the full graph"
CONTROL = "there is nothing to find: a circuit that meets the target is made by the search"
MISSED = "the circuit met its target on validation, not on held-out prompts: its own size counts"


def numbers_tables(cells: Cells) -> str:
    """The circuits, and their controls: a row for each task, model and method.

    Means over seeds, on held-out prompts. Two tables, since one would be wider than a screen.
    """
    return (
        f"<h3>The circuits</h3>{_table(cells, CIRCUITS, facts=True)}"
        f"<h3>Beside their controls</h3>{_table(cells, controls(cells), facts=False)}"
    )


def controls_legend(cells: Cells) -> str:
    """What the columns of answers to questions mean, one sentence for each that is shown."""
    shown = {c.heading for group in controls(cells) for c in group.measured(cells).columns}
    listed = "".join(
        f"<dt>{escape(headings)}</dt><dd>{escape(meaning)}</dd>"
        for headings, meaning in meanings(cells).items()
        if headings.split(",")[0] in shown
    )
    return f'<div class="card"><dl>{listed}</dl></div>' if listed else ""


def _table(cells: Cells, groups: Sequence[Group], *, facts: bool) -> str:
    """One table.

    Args:
        facts: whether it says if the target was met, and what the discovery cost.
    """
    groups = [group for group in (g.measured(cells) for g in groups) if group.columns]
    texts = ["Task", "Model", "Method", *["target"] * facts]
    over = [f'<th class="text" colspan="{len(texts)}"></th>']
    heads = [f'<th class="text">{text}</th>' for text in texts]
    for group in groups:
        over.append(
            f'<th class="group" colspan="{len(group.columns)}">{escape(group.heading)}</th>'
        )
        heads += [
            f'<th{_starts(group, c)} title="{escape(c.title)}">{escape(c.heading)}</th>'
            for c in group.columns
        ]
    if facts:
        over.append('<th class="group" colspan="2">cost</th>')
        heads.append('<th class="group" title="of the discovery">seconds</th>')
        heads.append('<th title="forward passes of the discovery">passes</th>')
    rows = (_row(cells, cell, groups, facts=facts) for cell in cells.cells)
    return (
        '<div class="card table"><table class="sortable"><thead>'
        f"<tr>{''.join(over)}</tr><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(cells: Cells, cell: Cell, groups: Sequence[Group], *, facts: bool) -> str:
    texts = [escape(cell.task), escape(cell.model), escape(cells.setting_name(cell.setting))]
    texts += [_verdict(cell)] * facts
    numbers = [
        _cell(column, column.values(cell), _starts(group, column))
        for group in groups
        for column in group.columns
    ]
    if facts:
        seconds = sum(record.seconds for record in cell.records) / len(cell.records)
        passes = sum(record.forward_passes for record in cell.records) / len(cell.records)
        numbers.append(f'<td class="group" data-value="{seconds}">{seconds:,.1f}</td>')
        numbers.append(f'<td data-value="{passes}">{passes:,.0f}</td>')
    first = "".join(f'<td class="text">{text}</td>' for text in texts)
    is_unmet = not (cell.met or cell.is_control)
    return f"<tr{' class=unmet' if is_unmet else ''}>{first}{''.join(numbers)}</tr>"


def _cell(column: TableColumn, values: Sequence[int | float], starts: str) -> str:
    if not values:
        return f'<td{starts} data-value="">-</td>'
    value = fmean(values)
    spread = ""
    if len(values) > 1 and min(values) < max(values):
        low, high = format(min(values), column.form), format(max(values), column.form)
        spread = f' title="{low} to {high}"'
    return f'<td{starts} data-value="{value}"{spread}>{format(value, column.form)}</td>'


def _starts(group: Group, column: TableColumn) -> str:
    return ' class="group"' if column is group.columns[0] else ""


def _verdict(cell: Cell) -> str:
    if cell.is_control:
        found = sum(record.met_on_validation for record in cell.records)
        return f'<span title="{CONTROL}">control: {found} of {len(cell.records)} met</span>'
    if not cell.met:
        failed = sum(not record.met_on_validation for record in cell.records)
        seeds = f" ({failed} of {len(cell.records)} seeds)" if failed < len(cell.records) else ""
        return f'<span class="mark" title="{UNMET}">unmet{seeds}</span>'
    if not cell.met_on_held_out:
        missed = sum(not record.met_on_held_out for record in cell.records)
        seeds = f" ({missed} of {len(cell.records)} seeds)" if missed < len(cell.records) else ""
        return f'<span class="mark" title="{MISSED}">missed{seeds}</span>'
    return "met"


def circuit_caption(cell: Cell, network: Network | None) -> str:
    """What is to be known about a circuit that is drawn, as HTML."""
    record = next((r for r in cell.records if r.met_on_validation), cell.first)
    if not record.met_on_validation:
        return (
            '<span class="mark">No circuit met the target</span> '
            f"({escape(record.target_words)}), so none is drawn: the full graph has "
            f"{record.graph_edges:,} edges."
        )
    m = record.chosen
    parts = [
        f"<b>{m.n_edges:,} edges</b> between {m.n_nodes:,} nodes",
        f"{m.connected_edges:,} edges, {m.connected_nodes:,} nodes on paths from input to output",
        *([] if m.weights_inside is None else [f"{m.weights_inside:,} nonzero weights inside"]),
        f"two-way loss {m.task_loss:.3f}",
        f"KL {m.kl:.3f}",
        f"accuracy {m.accuracy:.1%}",
        f"ablated: loss {m.necessity_task_loss:.3f}",
        record.seed_name,
    ]
    text = " · ".join(parts)
    if not record.met_on_held_out:
        text += ' · <span class="mark">missed</span> its target on held-out prompts'
    if network is None:
        text += (
            '<br><span class="mark">Not drawn:</span> no drawing is kept beside the circuit; run '
            "the comparison again."
        )
    return text


def failures(cells: Cells) -> str:
    """The errors of jobs and of questions that failed, as HTML; empty when none did."""
    items = []
    for record in cells.records:
        for where, error in record.failures.items():
            last = (error.strip().splitlines() or [""])[-1]
            items.append(
                f"<details><summary>{escape(where)}: {escape(last)}</summary>"
                f"<pre>{escape(error)}</pre></details>"
            )
    if not items:
        return ""
    return f'<h2 id="failed">What failed</h2><div class="card">{"".join(items)}</div>'
