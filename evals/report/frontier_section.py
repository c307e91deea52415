"""The report's frontier: pretraining loss against circuit size, where models make one."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_lens.evals.frontier import FrontierPoint, frontier_points, undominated
from sparse_lens.evals.report.cells import RANDOM, Cells
from sparse_lens.evals.summary import Summary
from sparse_lens.evals.wording import counted
from sparse_lens.plotting.frontier import FrontierMark, frontier_spec
from sparse_lens.plotting.page import choice, figure_place
from sparse_lens.plotting.spec import Spec

AT_LEAST = 3
"""Models; fewer make no frontier."""


def frontier_section(cells: Cells, summary: Summary, figures: dict[str, Spec]) -> str:
    """A figure for each method; nothing where fewer than three models have a known loss."""
    points = frontier_points(summary)
    methods = {}
    for i, setting in enumerate(cells.settings):
        of_setting = [point for point in points if point.setting == setting]
        if len(of_setting) < AT_LEAST or (setting.method == RANDOM and methods):
            continue
        figures[f"frontier-{i}"] = frontier_spec(frontier_marks(cells, of_setting))
        methods[str(i)] = cells.setting_name(setting)
    if not methods:
        return ""
    first = next(iter(methods))
    figure = figure_place(
        f"frontier-{first}",
        height=int(figures[f"frontier-{first}"]["layout"]["height"]),
        label="Edges a task over pretraining loss, model by model",
        group="frontier",
        pattern="frontier-*",
    )
    return (
        "<h2>Capability and circuit size</h2>"
        '<p class="note">Edges a task against pretraining loss; the lower left is better. The '
        "lines join the models of a kind that no other of its kind beats in both. A model with "
        "more than half of its weights at zero is sparse.</p>"
        f'<div class="bar">{choice("frontier", methods, first)}</div>'
        f'<div class="card">{figure}</div>'
    )


def frontier_marks(cells: Cells, points: Sequence[FrontierPoint]) -> list[FrontierMark]:
    """The points of one method, in the families of sparse and dense models."""
    marks = []
    for is_sparse in (True, False):
        family = [point for point in points if point.model.is_sparse is is_sparse]
        best = undominated(family)
        marks += [
            FrontierMark(
                model=point.model.model,
                colour=cells.colour(point.model.model),
                family="sparse" if is_sparse else "dense",
                loss=point.loss,
                edges=point.edges,
                by_seed=point.by_seed,
                best=point in best,
                note=_note(point),
            )
            for point in family
        ]
    return marks


def _note(point: FrontierPoint) -> str:
    model = point.model
    text = f"{model.n_parameters:,} parameters, {model.nonzero_fraction:.1%} of weights not zero"
    return f"{text}; {counted(point.n_unmet, 'target')} unmet" if point.n_unmet else text
