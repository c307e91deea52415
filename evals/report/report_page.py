"""The page as a whole, section by section."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

from sparse_lens.evals.report.cells import Cells
from sparse_lens.evals.report.figures import METRICS, setting_sizes, task_curves
from sparse_lens.evals.report.frontier_section import frontier_section
from sparse_lens.evals.report.headline import headline, measured, models_section
from sparse_lens.evals.report.legend import curves_legend
from sparse_lens.evals.report.overlap_section import overlap_section
from sparse_lens.evals.report.seed_stability_section import stability_section
from sparse_lens.evals.report.table import (
    circuit_caption,
    controls_legend,
    failures,
    numbers_tables,
)
from sparse_lens.evals.results import Results
from sparse_lens.evals.seed_stability import stability
from sparse_lens.evals.summary import Summary, summarize
from sparse_lens.evals.task_overlap import task_overlaps
from sparse_lens.plotting.drawing import network_spec
from sparse_lens.plotting.notes import CIRCUIT_NOTE, PROFILE_NOTE
from sparse_lens.plotting.page import choice, figure_place, render_page, write_page
from sparse_lens.plotting.spec import Spec

FIRST = "0"
"""Number of the method that is shown first."""

Figures = dict[str, Spec]


def write_report(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write the page of a comparison, in one step; the same results give the same bytes.

    Raises:
        ValueError: when no job is done.
        FileNotFoundError: when there is no such folder.
    """
    return write_page(path, report_html(results))


def report_html(results: Results) -> str:
    """The page of a comparison as HTML; see `write_report`."""
    cells = Cells.of(results.records)
    if not cells.done:
        raise ValueError(
            f"there is nothing to report: none of {len(results)} jobs is done. Run the comparison "
            "again; errors are in results.jsonl."
        )
    summary = summarize(cells.records)
    figures: Figures = {}
    circuits: list[dict[str, Any]] = []
    body = [
        headline(cells, summary),
        models_section(cells, summary),
        frontier_section(cells, summary, figures),
        _sizes(cells, summary, figures),
        _curves(cells, figures),
        _agreement(cells.claimed, results, figures),
        _circuits(cells, results, figures, circuits),
        "<h2>All numbers</h2>",
        '<p class="note">Means over seeds on held-out prompts; point at a number for its range. '
        "Click on a heading to sort.</p>",
        numbers_tables(cells),
        controls_legend(cells),
        measured(cells),
        failures(cells),
    ]
    return render_page("Circuits compared", "\n".join(body), figures, data={"circuits": circuits})


def _agreement(cells: Cells, results: Results, figures: Figures) -> str:
    """How alike circuits of seeds and of tasks are, which is read from their files."""
    if results.folder is not None and not results.has_circuits:
        return (
            '<p class="warn">Some circuits are not beside the results, so that agreement over '
            "seeds and tasks is not shown.</p>"
        )
    return stability_section(cells, stability(results)) + overlap_section(
        cells, task_overlaps(results), figures
    )


def _sizes(cells: Cells, summary: Summary, figures: Figures) -> str:
    methods = {}
    for i, setting in enumerate(cells.settings):
        ratios = [ratio for ratio in summary.ratios if ratio.setting == setting]
        figures[f"sizes-{i}"] = setting_sizes(cells, setting, ratios)
        methods[str(i)] = cells.setting_name(setting)
    first = f"sizes-{FIRST}"
    return (
        "<h2>Task by task, with controls</h2>"
        '<p class="note">Left, the size of the smallest circuit that meets the target, a mark '
        "for each seed, and the ratio to sparse models. Right, the two-way loss of that circuit "
        "on held-out prompts beside its controls; the dashed line is the target.</p>"
        f'<div class="bar">{choice("sizes", methods, FIRST)}</div><div class="card">'
        + figure_place(
            first,
            height=int(figures[first]["layout"]["height"]),
            label="Edges and losses of circuits, task by task",
            group="sizes",
            pattern="sizes-*",
        )
        + "</div>"
    )


def _curves(cells: Cells, figures: Figures) -> str:
    cards = []
    for i, task in enumerate(cells.tasks):
        for metric in METRICS:
            figures[f"curve-{i}-{metric.field}"] = task_curves(cells, task, metric)
        first = f"curve-{i}-{METRICS[0].field}"
        figure = figure_place(
            first,
            height=int(figures[first]["layout"]["height"]),
            label=f"Curves over edges, task {task}",
            group="curves",
            pattern=f"curve-{i}-*",
        )
        cards.append(f'<div class="card"><h3>{escape(task)}</h3>{figure}</div>')
    metrics = {metric.field: metric.label for metric in METRICS}
    return (
        "<h2>Curves over edge budgets</h2>"
        '<p class="note">The best circuit of each size on held-out prompts, means over seeds.</p>'
        f'<div class="bar">{choice("curves", metrics, METRICS[0].field)}{curves_legend(cells)}'
        f'</div><div class="grid">{"".join(cards)}</div>'
    )


def _circuits(
    cells: Cells, results: Results, figures: Figures, circuits: list[dict[str, Any]]
) -> str:
    for cell in cells.cells:
        method = str(cells.style(cell.setting))
        met = next((record for record in cell.records if record.met_on_validation), None)
        network = None if met is None else results.drawing(met)
        entry: dict[str, Any] = {"key": [cell.task, cell.model, method], "figure": None}
        if network is not None:
            entry["figure"] = f"circuit-{len(circuits)}"
            figures[entry["figure"]] = network_spec(network)
        entry["caption"] = circuit_caption(cell, network)
        circuits.append(entry)
    methods = {str(i): cells.setting_name(setting) for i, setting in enumerate(cells.settings)}
    kinds = dict.fromkeys(setting.graph for setting in cells.settings)
    note = " ".join([*(CIRCUIT_NOTE[kind] for kind in kinds), PROFILE_NOTE])
    menus = (
        _menu("Task", {task: task for task in cells.tasks})
        + _menu("Model", {model: model for model in cells.models})
        + _menu("Method", methods, FIRST)
    )
    return (
        f'<h2>Circuits</h2><p class="note">{note}</p>'
        f'<div class="bar">{menus}</div><div class="card"><p class="wide note" '
        'id="circuit-caption"></p>'
        + figure_place("", height=420, label="The chosen circuit", tools=True, element_id="circuit")
        + "</div>"
    )


def _menu(label: str, options: dict[str, str], chosen: str = "") -> str:
    items = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>'
        f"{escape(text)}</option>"
        for value, text in options.items()
    )
    return f"<label>{label} <select data-menu>{items}</select></label>"
