"""Self-contained HTML pages: text, and figures that are drawn when they come into view.

The text shows at once: plotly, the slowest part of a page to start, is started when the first
figure is about to come into view.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from sparse_lens.atomic import write_atomically
from sparse_lens.plotting.spec import Spec
from sparse_lens.plotting.theme import template

_SKELETON = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
<script>
(function () {{
  var kept = null;
  try {{ kept = localStorage.getItem("sparse-lens-theme"); }} catch (error) {{ kept = null; }}
  var dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = kept || (dark ? "dark" : "light");
}})();
</script>
</head>
<body>
<button id="theme" type="button" title="Light or dark" aria-label="Light or dark"></button>
<main>
{body}
</main>
<noscript><p class="wide note">The figures need JavaScript.</p></noscript>
{data}
<script>{js}</script>
</body>
</html>
"""


def render_page(
    title: str,
    body: str,
    figures: Mapping[str, Spec],
    *,
    data: Mapping[str, Any] | None = None,
) -> str:
    """A page as HTML that loads no other file.

    Args:
        body: HTML, with text escaped; `figure_place` makes the elements that figures go into.
        figures: by the name that was given to `figure_place`.
        data: JSON for the page's script, by name.
    """
    blocks = [_json_block(f"data-{name}", value) for name, value in (data or {}).items()]
    blocks.append(_json_block("data-templates", {m: template(m) for m in ("light", "dark")}))
    for name, figure in figures.items():
        blocks.append(_packed(f"figure-{name}", json.dumps(figure, separators=(",", ":"))))
    blocks.append(_packed("plotly", get_plotlyjs()))
    return _SKELETON.format(
        title=escape(title),
        css=_asset("page.css"),
        body=body,
        data="\n".join(blocks),
        js=_asset("page.js"),
    )


def figure_place(
    name: str,
    *,
    height: int,
    label: str,
    tools: bool = False,
    group: str = "",
    pattern: str = "",
    element_id: str = "",
) -> str:
    """The element that a figure is drawn into, as HTML.

    Args:
        name: the name of the figure that is shown at first; empty for none.
        height: the height that is reserved for the figure, in pixels.
        label: what the figure shows, for screen readers.
        tools: show the buttons to zoom and to save, and reserve an element below for the profile
            of a node that is clicked.
        group: the row of buttons (`choice`) that exchanges the figure.
        pattern: the names of the figures that the buttons exchange, with `*` for their values.
        element_id: an id for the page's script to find the element by.
    """
    id_attribute = f' id="{escape(element_id)}"' if element_id else ""
    return (
        f'<div class="scroll"><div class="plot"{id_attribute} data-figure="{escape(name)}" '
        f'data-tools="{int(tools)}" data-group="{escape(group)}" data-pattern="{escape(pattern)}" '
        f'role="img" aria-label="{escape(label)}" style="min-height:{height}px"></div></div>'
        + ('<div class="profile" hidden></div>' if tools else "")
    )


def choice(group: str, values: Mapping[str, str], chosen: str) -> str:
    """A row of buttons, one of them pressed, as HTML.

    Args:
        values: by value, which replaces `*` in the pattern of `figure_place`, the button's label.
    """
    buttons = "".join(
        f'<button type="button" value="{escape(value)}" '
        f'aria-pressed="{str(value == chosen).lower()}">{escape(label)}</button>'
        for value, label in values.items()
    )
    return f'<div class="choice" role="group" data-group="{escape(group)}">{buttons}</div>'


def write_page(path: str | os.PathLike[str], html: str) -> Path:
    """Write a page atomically; an existing file is replaced.

    Raises:
        FileNotFoundError: when the folder does not exist.
    """
    path = Path(path)
    write_atomically(path, html.encode())
    return path


def _packed(name: str, text: str) -> str:
    """Text for the page's script, compressed, as a page can hold a hundred circuits."""
    packed = base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
    return f'<script type="text/plain" id="{escape(name)}">{packed}</script>'


def _json_block(name: str, value: Any) -> str:
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def _asset(name: str) -> str:
    return resources.files("sparse_lens.plotting").joinpath(name).read_text(encoding="utf-8")
