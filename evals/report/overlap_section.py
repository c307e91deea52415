"""The report's heat maps of what circuits of different tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sparse_lens.evals.report.cells import RANDOM, Cells
from sparse_lens.evals.task_overlap import TaskOverlap
from sparse_lens.plotting.overlaps import overlaps_spec
from sparse_lens.plotting.page import choice, figure_place
from sparse_lens.plotting.spec import Spec


def overlap_section(cells: Cells, overlaps: Sequence[TaskOverlap], figures: dict[str, Spec]) -> str:
    """A heat map for each model, by method; nothing where no two tasks have circuits."""
    settings = [
        setting
        for setting in cells.settings
        if setting.method != RANDOM and any(overlap.setting == setting for overlap in overlaps)
    ]
    if not settings:
        return ""
    methods = {str(cells.style(setting)): cells.setting_name(setting) for setting in settings}
    first = next(iter(methods))
    cards = []
    for i, model in enumerate(cells.models):
        for setting in settings:
            shares = {
                overlap.tasks: (overlap.iou, overlap.by_chance)
                for overlap in overlaps
                if (overlap.setting, overlap.model) == (setting, model)
            }
            figures[f"overlap-{i}-{cells.style(setting)}"] = overlaps_spec(cells.tasks, shares)
        height = int(figures[f"overlap-{i}-{first}"]["layout"]["height"])
        figure = figure_place(
            f"overlap-{i}-{first}",
            height=height,
            label=f"What circuits of different tasks share in {model}",
            group="overlap",
            pattern=f"overlap-{i}-*",
        )
        cards.append(f'<div class="card"><h3>{escape(model)}</h3>{figure}</div>')
    return (
        "<h2>Do tasks share their circuits?</h2>"
        '<p class="note">What the circuits of two tasks both keep over what either keeps, mean '
        "over seeds; point at a number for what random circuits of the same sizes would share. "
        "Circuits that miss the target are left out.</p>"
        f'<div class="bar">{choice("overlap", methods, first)}</div>'
        f'<div class="grid">{"".join(cards)}</div>'
    )
