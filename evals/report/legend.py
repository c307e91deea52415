"""The legend that all curves of the report share."""

from __future__ import annotations

from html import escape

from sparse_lens.evals.report.cells import Cells
from sparse_lens.plotting.theme import DASHES, NEUTRAL, SERIES

_DASH_ARRAYS = dict(zip(DASHES, ("", "7 5", "2 4", "7 4 2 4", "12 5", "12 4 2 4"), strict=True))
_SHAPES = {
    "chosen circuit": '<path d="M8 1l2 5h5l-4 3 2 6-5-4-5 4 2-6-4-3h5z" fill="{c}"/>',
    "random circuit of its size": '<path d="M4 4l8 8M12 4l-8 8" stroke="{c}" stroke-width="2"/>',
    "full model": '<path d="M8 3l5 9H3z" fill="none" stroke="{c}" stroke-width="1.5"/>',
    "empty circuit": '<circle cx="8" cy="8" r="4" fill="none" stroke="{c}" stroke-width="1.5"/>',
}


def curves_legend(cells: Cells) -> str:
    """Colours of models, dashes of methods and signs of single circuits, as HTML."""
    items = []
    for model in cells.models:
        colour = SERIES[cells.colour(model) % len(SERIES)]
        items.append(f'<i class="chip" style="background:{colour}"></i>{escape(model)}')
    for setting in cells.settings:
        dash = _DASH_ARRAYS[DASHES[cells.style(setting) % len(DASHES)]]
        items.append(
            f'<svg width="34" height="8"><path d="M0 4h34" stroke="{NEUTRAL}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/></svg>{escape(cells.setting_name(setting))}'
        )
    for name, shape in _SHAPES.items():
        drawn = shape.format(c=NEUTRAL)
        items.append(f'<svg width="16" height="16">{drawn}</svg>{name}')
    return f'<div class="legend">{"".join(f"<span>{item}</span>" for item in items)}</div>'
