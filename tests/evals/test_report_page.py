"""The report's page in a browser, with many circuits: what waits until it is needed, what fits.

Needs playwright and a Chromium (`CHROMIUM=/path/to/it` where it has another name).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparse_lens.evals.questions import Completeness
from sparse_lens.evals.records import Record
from sparse_lens.evals.report import write_report
from sparse_lens.evals.results import Results, drawing_path
from sparse_lens.plotting import Network
from tests.evals import toy_records
from tests.evals.test_report_browser import browser, pytestmark, sync_api
from tests.graphs.tiny import CHANNEL, random_node_circuit

__all__ = ["browser", "pytestmark"]  # a fixture, and what skips without a browser

MODELS = {"py-sparse": "sparse<1>", "py-dense": "dense&co", "py-dense-topk": "dense&co"}
TASKS = (
    "quote_type", "bracket_counting", "bracket_brace", "for_while", "while_return_true",
    "if_elif_else", "set_or_string", "lambda_func",
)  # fmt: skip
METHODS = ("node-pruning", "attribution-patching", "random")
DRAWN = "#circuit .scatterlayer .point"


def record(model: str, task: str, method: str, seed: int) -> Record:
    """Large numbers in every column, and every question asked."""
    made = toy_records.questioned(MODELS[model], toy_records.TASKS[0], method, seed)
    chosen, *others = made.measurements
    sizes = {"n_edges": 123_456, "connected_edges": 123_455, "n_nodes": 12_345}
    chosen = replace(
        chosen, **sizes, weights_inside=1_234_567, task_loss=10.123, kl=12.345, accuracy=1.0
    )
    columns = Completeness().columns
    answers = {column.answer: 12.345 for column in columns}
    return replace(
        made,
        model=model,
        task=task,
        circuit=f"circuits/{model}-{task}-{method}-{seed}.safetensors",
        seconds=12_345.6 + seed,
        forward_passes=123_456,
        measurements=(chosen, *others),
        answers={**made.answers, "completeness": answers},
        columns={**made.columns, "completeness": columns},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "circuits").mkdir()
    records = tuple(
        record(model, task, method, seed)
        for model in MODELS
        for task in TASKS
        for method in METHODS
        for seed in (0, 1)
    )
    results = Results(records, folder)
    circuits = [random_node_circuit(CHANNEL, 0.8, seed) for seed in (0, 1)]
    drawn = Network.of(circuits[0]).to_json()
    for one in records:
        if one.met_on_validation:
            path = results.circuit_path(one)
            circuits[one.seed].save(path)
            drawing_path(path).write_text(drawn, encoding="utf-8")
    return write_report(results, folder / "report.html")


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report as it is after loading, in a window too low for any figure."""
    page = browser.new_page(viewport={"width": 1280, "height": 60})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert not errors


def drawn(page: Any) -> list[str]:
    """Names of the figures that were begun."""
    return page.evaluate(
        "[...document.querySelectorAll('.plot')].map((d) => d.dataset.drawn).filter(Boolean)"
    )


def test_nothing_is_drawn_before_it_is_near(page: Any) -> None:
    """Not even plotly is started for a reader who looks at the headline."""
    assert page.locator("h1").is_visible()
    assert page.evaluate("typeof Plotly") == "undefined"
    assert drawn(page) == []

    page.locator("#circuit").scroll_into_view_if_needed()
    page.wait_for_selector(DRAWN)
    assert page.evaluate("typeof Plotly") == "object"
    circuits = [name for name in drawn(page) if name.startswith("circuit-")]
    assert len(circuits) == 1, "of many"
    assert page.locator('script[id^="figure-circuit-"]').count() == len(TASKS) * len(MODELS) * 2

    menu = page.locator("[data-menu]").first
    menu.select_option(index=1)
    page.wait_for_function(
        """(before) => ![undefined, before].includes(
            document.getElementById("circuit").dataset.drawn)""",
        arg=circuits[0],
    )
    sync_api.expect(page.locator(DRAWN).first).to_be_visible()


def test_figures_that_come_together_start_plotly_once(page: Any) -> None:
    page.set_viewport_size({"width": 1280, "height": 4000})
    page.wait_for_selector(".plot .main-svg")
    page.wait_for_function(
        """[...document.querySelectorAll(".plot[data-drawn]")].every(
            (place) => place.querySelector(".main-svg"))"""
    )
    assert len(drawn(page)) > 1
    assert page.locator("head script[src]").count() == 1


def test_all_figures_are_drawn_for_print(page: Any) -> None:
    """Without anyone who scrolls to them."""
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(
        """[...document.querySelectorAll(".plot")].every(
            (place) => !place.dataset.figure || place.querySelector(".main-svg"))"""
    )
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1292, "height": 1847})  # of a printed page
    for table in page.locator(".table").all():
        assert table.evaluate("(e) => e.scrollHeight <= e.clientHeight"), "cut off"


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_no_table_is_wider_than_the_screen(page: Any, width: int, mode: str) -> None:
    page.emulate_media(color_scheme=mode)
    page.reload()
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.dataset.theme") == mode
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tables = page.locator(".table").all()
    assert len(tables) == 5  # evidence, models, stability, circuits, controls
    for table in tables:
        room, needed = table.evaluate("(e) => [e.clientWidth, e.scrollWidth]")
        assert needed <= room, table.inner_text()[:200]
    outside = page.evaluate(
        """() => [...document.querySelectorAll(".table :is(th, td)")].filter((cell) => {
            const range = document.createRange(); range.selectNodeContents(cell);
            const text = range.getBoundingClientRect(), box = cell.getBoundingClientRect();
            return text.width && (text.left < box.left - 1 || text.right > box.right + 1);
        }).map((cell) => cell.textContent)"""
    )
    assert outside == [], "texts that reach into the next cell"
    squeezed = page.evaluate(
        """() => [...document.querySelectorAll("td.text")].filter(
            (cell) => cell.getBoundingClientRect().height > 60).map((cell) => cell.textContent)"""
    )
    assert squeezed == [], "texts of more than two lines or so"
