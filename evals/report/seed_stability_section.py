"""The report's table of agreement over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sparse_lens.evals.report.cells import Cells
from sparse_lens.evals.seed_stability import Stability, mean_over_tasks

MOST_LEVEL = 6
"""More headings than this stand upright, to stay on the screen."""


def stability_section(cells: Cells, stabilities: Sequence[Stability]) -> str:
    """A row for each method and model, a column for each task; nothing where there is one seed."""
    if not stabilities:
        return ""
    by_cell = {(each.setting, each.model, each.task): each for each in stabilities}
    means = mean_over_tasks(stabilities)
    rows = []
    for setting in cells.settings:
        for model in cells.models:
            if (setting, model) not in means:
                continue
            of_tasks = [_cell(by_cell.get((setting, model, task))) for task in cells.tasks]
            rows.append(
                f'<tr><td class="text">{escape(cells.setting_name(setting))}</td>'
                f'<td class="text">{escape(model)}</td>'
                f"<td><b>{means[setting, model]:.2f}</b></td>{''.join(of_tasks)}</tr>"
            )
    tall = ' class="tall"' if len(cells.tasks) > MOST_LEVEL else ""
    heads = "".join(f"<th{tall}><span>{escape(task)}</span></th>" for task in cells.tasks)
    return (
        "<h2>The same circuit again?</h2>"
        '<p class="note">What the circuits of two seeds both keep over what either keeps, as a '
        "mean over pairs of seeds; 1 where a method always finds the same. Circuits that miss the "
        "target do not count.</p>"
        '<div class="card table"><table><thead><tr><th class="text">Method</th>'
        f'<th class="text">Model</th><th>mean</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(stability: Stability | None) -> str:
    if stability is None:
        return "<td></td>"
    ious = stability.ious
    detail = f"{min(ious):.2f} to {max(ious):.2f}, {len(stability.seeds)} seeds"
    return f'<td title="{detail}">{stability.mean_iou:.2f}</td>'
