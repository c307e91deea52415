"""The report in a browser: it draws, it answers clicks, nothing overlaps, nothing is fetched.

Needs playwright and a Chromium (`CHROMIUM=/path/to/it` where it has another name).
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sparse_lens.ablation import MeanAblation
from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.evals.budgets import EdgeBudgets
from sparse_lens.evals.compare import compare
from sparse_lens.evals.report import write_report
from sparse_lens.node_pruning import NodePruning
from tests import planted

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
sync_api.expect.set_options(timeout=30_000)  # a busy machine is no failure
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the path"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    methods = {
        "attribution": AttributionPatching(edges=True),
        "pruning": NodePruning(n_steps=40, learning_rate=0.05, k_coef=0.01),
    }
    results = compare(
        [planted.dense_model(), planted.sparse_model()],
        [replace(planted.task(), name=name) for name in ("one", "another")],
        methods,
        out=folder,
        ablation=MeanAblation(tokens=planted.task().train.clean),
        budgets=EdgeBudgets(fractions=(0.1, 1.0), counts=(5,)),
    )
    assert all(record.status == "done" and record.met_on_validation for record in results)
    return write_report(results, folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report, drawn; at the end nothing must have failed or been fetched."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    fetched: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(report.as_uri())
    page.locator("#circuit").scroll_into_view_if_needed()
    page.wait_for_selector("#circuit .scatterlayer .point")
    # What is near is drawn, too, and nothing moves any more.
    page.wait_for_function(
        """() => {
            const places = [...document.querySelectorAll(".plot[data-drawn]")];
            const before = window.placesBefore;
            window.placesBefore = places.map((e) => e.getBoundingClientRect().top).join();
            return places.every((e) => e.querySelector(".main-svg"))
                && window.placesBefore === before;
        }""",
        polling=250,
    )
    yield page
    page.close()
    assert not errors
    assert [url for url in fetched if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def menus(page: Any) -> list[Any]:
    return page.locator("[data-menu]").all()


def centre_of_node(page: Any, name: str) -> tuple[float, float]:
    """Where a node stands on the screen, by the text that hovering shows."""
    return tuple(
        page.evaluate(
            """(name) => {
                const div = document.getElementById("circuit"), box = div.getBoundingClientRect();
                const { xaxis, yaxis, _size } = div._fullLayout;
                for (const trace of div.data) {
                    if ((trace.meta || {}).role !== "nodes") continue;
                    const i = trace.hovertext.findIndex((t) => t.startsWith(`<b>${name}</b>`));
                    if (i < 0) continue;
                    return [box.left + _size.l + xaxis.d2p(trace.x[i]),
                            box.top + _size.t + yaxis.d2p(trace.y[i])];
                }
            }""",
            name,
        )
    )


def test_every_figure_is_drawn(page: Any) -> None:
    for place in page.locator(".plot").all():
        place.scroll_into_view_if_needed()
        sync_api.expect(place.locator(".main-svg").first).to_be_visible()


def test_menus_choose_a_circuit(page: Any) -> None:
    captions = {}
    for menu in menus(page):
        for value in menu.locator("option").all():
            menu.select_option(value.get_attribute("value"))
            sync_api.expect(page.locator(".profile")).to_be_visible()
            key = tuple(each.input_value() for each in menus(page))
            captions[key] = page.locator("#circuit-caption").inner_text()
    assert len(captions) == 4, "the first, and what differs from it in one menu"
    assert all("edges between" in caption for caption in captions.values())


def test_clicking_a_node_shows_what_it_does(page: Any) -> None:
    panel = page.locator(".profile")
    sync_api.expect(panel).to_be_visible()
    names = panel.locator("option").all_inner_texts()
    for name in (names[0], names[-1]):
        page.mouse.click(*centre_of_node(page, name))
        sync_api.expect(panel.locator("select option:checked")).to_have_text(name)
        sync_api.expect(panel).to_be_in_viewport()
    assert "before" in panel.inner_text()
    tokens = panel.locator("pre").first.locator("span[title]")
    assert tokens.count() >= 3
    titles = [float(t.get_attribute("title").replace("\u2212", "-")) for t in tokens.all()]
    assert any(titles)


def test_the_chosen_node_is_marked(page: Any) -> None:
    name = page.locator(".profile option").last.inner_text()
    page.mouse.click(*centre_of_node(page, name))
    sync_api.expect(page.locator(".profile select option:checked")).to_have_text(name)
    ring = page.evaluate(
        """() => {
            const div = document.getElementById("circuit"), box = div.getBoundingClientRect();
            const { x, y } = div.data.find((trace) => (trace.meta || {}).role === "chosen node");
            const { xaxis, yaxis, _size } = div._fullLayout;
            return [box.left + _size.l + xaxis.d2p(x[0]), box.top + _size.t + yaxis.d2p(y[0])];
        }"""
    )
    assert ring == pytest.approx(centre_of_node(page, name), abs=1)


def test_another_circuit_brings_its_own_nodes(page: Any) -> None:
    found = []
    for label in ("attribution", "pruning", "attribution"):
        menus(page)[2].select_option(label=label)
        sync_api.expect(page.locator(".profile")).to_be_visible()
        found.append(page.locator(".profile option").all_inner_texts())
    assert found[0] == found[2] != found[1]


def test_pointing_at_a_node_lights_its_edges(page: Any) -> None:
    name = page.locator(".profile option").first.inner_text()
    page.mouse.move(*centre_of_node(page, name))
    sync_api.expect(page.locator("#circuit .hoverlayer text").first).to_contain_text(name)


def test_dark_and_light(page: Any) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    before = page.evaluate(ground)
    page.locator("#theme").click()
    assert page.evaluate(ground) != before


def test_headings_sort_the_table(page: Any) -> None:
    table = page.locator("table.sortable")
    heading = table.locator("thead th", has_text="edges").first
    heading.click()
    up = heading.get_attribute("aria-sort")
    heading.click()
    assert {up, heading.get_attribute("aria-sort")} == {"ascending", "descending"}


@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_overlaps(page: Any, width: int) -> None:
    """Blocks follow each other down the page, inside its width; so do the texts of each figure."""
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    blocks = page.evaluate(
        """() => [...document.querySelectorAll("main > *")].map((e) => {
            const r = e.getBoundingClientRect(); return [r.top, r.bottom, e.outerHTML.slice(0, 80)];
        }).filter(([top, bottom]) => bottom > top)"""
    )
    for (_, bottom, one), (top, _, other) in pairwise(blocks):
        assert top >= bottom - 1, f"{other!r} begins before {one!r} ends"
    for place in page.locator(".plot").all():
        place.scroll_into_view_if_needed()
        sync_api.expect(place.locator(".main-svg").first).to_be_visible()
    clashes = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
            const found = [...plot.querySelectorAll(".annotation-text, .xtick text, .ytick text")]
                .map((e) => [e.textContent, e.getBoundingClientRect()])
                .filter(([text, r]) => text && r.width);
            const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
                && a.top < b.bottom - 1 && b.top < a.bottom - 1;
            return found.flatMap(([text, r], i) => found.slice(i + 1)
                .filter(([, other]) => meet(r, other)).map(([t]) => `${text} | ${t}`));
        })"""
    )
    assert clashes == []
