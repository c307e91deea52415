"""Colours for light and dark backgrounds and for colour-blind readers (after Okabe and Ito)."""

from __future__ import annotations

from typing import Any

POSITIVE, NEGATIVE = "#2b7bba", "#d9622b"
"""Weights and scores by their sign."""

LETTERS = {"q": "#0c8f6b", "k": "#b4609a", "v": "#a8790b"}
"""What a head reads as q, k and v."""

NEUTRAL = "#7c8794"
"""Links, controls, and edges without a sign."""

NODE = "#5d6b7c"
"""Nodes other than q, k and v."""

SERIES = ("#2b7bba", "#d9622b", "#0c8f6b", "#b4609a", "#a8790b", "#3f96ba", "#8a6fc0", "#7d8a3c")
"""Models, in the order of a comparison."""

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "star", "cross", "x", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Methods, in the order of a comparison."""

FONT = "Inter, 'Segoe UI', system-ui, -apple-system, 'Helvetica Neue', Arial, sans-serif"

_INK = {
    "light": {"ink": "#1d2430", "soft": "#5a6472", "grid": "#e3e7ec", "paper": "#ffffff"},
    "dark": {"ink": "#e6eaf0", "soft": "#a3adba", "grid": "#2c333d", "paper": "#171b21"},
}


def template(mode: str = "light") -> dict[str, Any]:
    """A plotly template with all the colours of a figure that depend on the background.

    Args:
        mode: `light` or `dark`.

    Raises:
        ValueError: for another mode.
    """
    if mode not in _INK:
        raise ValueError(f"a template is for 'light' or 'dark' ground, got {mode!r}.")
    ink = _INK[mode]
    axis = {
        "gridcolor": ink["grid"],
        "linecolor": ink["grid"],
        "zerolinecolor": ink["grid"],
        "tickcolor": ink["grid"],
        "tickfont": {"color": ink["soft"], "size": 11},
        "title": {"font": {"size": 12, "color": ink["soft"]}},
        "automargin": True,
    }
    halo = {"shadow": f"0 0 2px {ink['paper']}, 0 0 2px {ink['paper']}, 0 0 3px {ink['paper']}"}
    return {
        "layout": {
            "paper_bgcolor": ink["paper"],
            "plot_bgcolor": ink["paper"],
            "font": {"family": FONT, "size": 12, "color": ink["ink"]},
            "title": {"font": {"size": 15}, "x": 0, "xanchor": "left"},
            "xaxis": axis,
            "yaxis": axis,
            "annotationdefaults": {"font": {"color": ink["soft"], "size": 11}},
            "hoverlabel": {
                "bgcolor": ink["paper"],
                "bordercolor": NEUTRAL,
                "font": {"family": FONT, "size": 12, "color": ink["ink"]},
                "align": "left",
            },
            "legend": {"font": {"size": 11, "color": ink["soft"]}, "bgcolor": "rgba(0,0,0,0)"},
            "modebar": {"color": NEUTRAL, "activecolor": ink["ink"], "bgcolor": "rgba(0,0,0,0)"},
        },
        "data": {
            "scatter": [
                {
                    "marker": {"color": ink["paper"], "line": {"color": ink["paper"], "width": 1}},
                    "textfont": {"color": ink["ink"], **halo},
                }
            ]
        },
    }
