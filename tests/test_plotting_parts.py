"""Parts of figures and pages: spreading rows, colours, curves, and self-contained HTML."""

import base64
import gzip
import json
import re
from html import escape
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from sparse_lens.plotting import Curve, SizeRow, curves_figure, figure_of, sizes_figure
from sparse_lens.plotting.curves import curves_spec
from sparse_lens.plotting.layout import spread
from sparse_lens.plotting.overlaps import overlaps_spec
from sparse_lens.plotting.page import choice, figure_place, render_page, write_page
from sparse_lens.plotting.theme import LETTERS, NEGATIVE, NEUTRAL, POSITIVE, SERIES, template

CURVE = Curve("a & <b>", 1, 2, [0, 10, 100], [2.0, 0.5, 0.0], ((0, 2.0, "empty"),))


@pytest.mark.parametrize(
    ("wanted", "gap", "expected"),
    [
        ([], 1.0, []),
        ([3.0], 1.0, [3.0]),
        ([1.0, 5.0, 9.0], 1.0, [1.0, 5.0, 9.0]),
        ([5.0, 5.0, 5.0], 1.0, [4.0, 5.0, 6.0]),
        ([5.0, 5.5], 1.0, [4.75, 5.75]),
        ([0.0, 0.0], 2.0, [0.0, 2.0]),
        ([10.0, 10.0], 2.0, [8.0, 10.0]),
        ([5.0] * 6, 5.0, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
    ],
)
def test_rows_are_spread_as_near_as_may_be_to_where_they_want(wanted, gap, expected):
    assert spread(wanted, gap, 0.0, 10.0) == pytest.approx(expected)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("colour", [*SERIES, *LETTERS.values(), POSITIVE, NEGATIVE, NEUTRAL])
def test_colours_can_be_seen_on_both_grounds(mode, colour):
    """WCAG 2.1, 1.4.11: a contrast of 3 to 1 for parts of figures."""
    paper = luminance(template(mode)["layout"]["paper_bgcolor"])
    low, high = sorted((luminance(colour), paper))
    assert (high + 0.05) / (low + 0.05) >= 3


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_numbers_in_heat_maps_can_be_read_on_both_grounds(mode, share):
    """WCAG 2.1, 1.4.3: a contrast of 4.5 to 1 for texts, on the cell's colour over the paper."""
    (heat,) = overlaps_spec(("a", "b"), {("a", "b"): (share, 0.0)})["data"]
    *_, colour = heat["colorscale"][-1]
    *rgb, alpha = (float(part) for part in colour.removeprefix("rgba(").rstrip(")").split(","))
    made = template(mode)
    paper = made["layout"]["paper_bgcolor"]
    under = [int(paper[i : i + 2], 16) for i in (1, 3, 5)]
    opacity = alpha * share
    mixed = [round(opacity * a + (1 - opacity) * b) for a, b in zip(rgb, under, strict=True)]
    cell = "#" + "".join(f"{part:02x}" for part in mixed)
    (default,) = made["data"]["heatmap"]
    assert "color" not in heat["textfont"]
    low, high = sorted(map(luminance, (default["textfont"]["color"], cell)))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_no_template_of_another_name():
    with pytest.raises(ValueError, match="'light' or 'dark'"):
        template("sepia")


def test_curves_hold_every_value():
    figure: Any = curves_figure([CURVE], y_title="nats", log_y=True, level=0.15, title="<i>")
    line, mark = figure.data
    assert list(line.x) == [1, 10, 100]  # no edges stand at 1 on a logarithmic axis
    assert list(line.y) == [2.0, 0.5, 1e-4]
    assert [list(pair) for pair in line.customdata] == [[0, 2.0], [10, 0.5], [100, 0.0]]
    assert (list(mark.x), list(mark.y), mark.name) == ([1], [2.0], "empty circuit")
    assert line.line.color == mark.marker.color == SERIES[1]
    assert line.name == "a &amp; &lt;b&gt;"
    assert figure.layout.title.text == "&lt;i&gt;"
    assert (figure.layout.shapes[0].y0, figure.layout.shapes[0].y1) == (0.15, 0.15)
    assert figure.layout.yaxis.type == "log"


def test_sizes_mark_what_is_unmet_and_show_the_controls():
    losses = {"chosen": 0.1, "full": 0.0, "empty": 2.0, "random": 1.5, "ablated": 3.0}
    rows = [
        SizeRow("sparse", 0, [0.0, 12.0], [True, True], losses),
        SizeRow("dense", 1, [500.0, 34.0], [False, True], {"chosen": 0.2}, note="x 40"),
    ]
    figure: Any = sizes_figure({"task <1>": rows}, target_loss=0.15)
    by_role: dict[str, list[Any]] = {}
    for trace in figure.data:
        by_role.setdefault(trace.meta["role"], []).append(trace)
    met, unmet = by_role["sizes"]
    assert (list(met.x), list(unmet.x)) == ([1, 12, 34], [500])
    assert not any("target not met" in text for text in met.hovertext)
    assert "target not met" in unmet.hovertext[0]
    assert unmet.marker.symbol != met.marker.symbol
    for kind, loss in losses.items():
        (trace,) = by_role[kind]
        assert trace.x[0] == max(loss, 1e-4)
        assert trace.xaxis == "x2"
    assert [text.strip() for text in by_role["notes"][0].text] == ["x 40"]
    assert "<b>task &lt;1&gt;</b>" in [a.text for a in figure.layout.annotations]
    legend = {trace.name for trace in figure.data if trace.showlegend is not False}
    assert len(legend) == 6
    assert set(by_role["chosen"][0].y) == set(met.y) | set(unmet.y)


def page() -> str:
    spec = curves_spec([CURVE], height=200)
    body = figure_place('one "1"', height=200, label="<label>", group="g", pattern="*")
    return render_page("<title>", body + choice("g", {"v": "<v>"}, "v"), {'one "1"': spec})


def unpacked(block: str) -> str:
    return gzip.decompress(base64.b64decode(block)).decode()


def test_a_page_needs_nothing_but_itself():
    html = page()
    packed = re.findall(r'id="plotly">([^<]*)<', html)
    assert [unpacked(block) for block in packed] == [get_plotlyjs()]
    rest = html.replace(packed[0], "")
    assert not re.search(r"https?:|//[a-z]|\ssrc=|@import|url\(|<link", rest)
    assert "<title>&lt;title&gt;</title>" in rest
    assert "&lt;label&gt;" in rest
    assert "&lt;v&gt;" in rest


def test_a_page_holds_its_figures_packed():
    (packed,) = re.findall(rf'id="figure-{escape("one")}[^>]*>([^<]*)<', page())
    spec = json.loads(unpacked(packed))
    figure: Any = figure_of(spec)
    assert list(figure.data[0].x) == [1, 10, 100]
    assert "template" not in spec["layout"]


def test_pages_are_the_same_each_time():
    assert page() == page()


def test_data_cannot_leave_their_block():
    html = render_page("t", "", {}, data={"evil": "</script><script>alert(1)</script>"})
    assert "<script>alert" not in html
    (block,) = re.findall(r'id="data-evil">(.*?)</script>', html)
    assert json.loads(block) == "</script><script>alert(1)</script>"


def test_a_page_is_written_in_one_step(tmp_path: Path):
    path = write_page(tmp_path / "page.html", "one")
    assert write_page(path, "two").read_text(encoding="utf-8") == "two"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_page(tmp_path / "none" / "page.html", "x")
