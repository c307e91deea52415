"""How fast a report with many large circuits is there, in a headless Chromium.

Run `python tests/benchmarks/bench_report.py [--circuits N] [--share S] [--repeats R] [--out FILE]`
with nothing else running; needs playwright and a Chromium (`--chromium` where it has another name).
The circuits are random nodes of the embedded models with all edges between them, their profiles
those of a real task; the numbers beside them are made up. Times are medians, in seconds from the
start of the navigation: the page can be read (DOMContentLoaded), all scripts have run (load), and
the first circuit, scrolled to at once, is drawn. Last, from choosing another circuit until it is.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Page, ViewportSize, sync_playwright

from sparse_lens.ablation import MeanAblation
from sparse_lens.evals import tasks
from sparse_lens.evals.harness.profiling import profiles_of
from sparse_lens.evals.report import write_report
from sparse_lens.evals.results import Results, drawing_path
from sparse_lens.graphs import ChannelGraph
from sparse_lens.models.checkpoint import load_sparse_gpt
from sparse_lens.patching import bind
from sparse_lens.plotting import Network
from tests.evals import toy_records
from tests.graphs.tiny import random_node_circuit

MODELS = {"py-sparse": "sparse<1>", "py-dense": "dense&co"}
"""With the models of the made-up records."""

TASK = "bracket_counting"
DRAWN = "#circuit .scatterlayer .point"
TIMEOUT = 120_000  # milliseconds, for machines that are busy
VIEWPORT = ViewportSize(width=1280, height=900)


def make_results(folder: Path, n_circuits: int, share: float) -> Results:
    """Records of as many jobs, half of them of each model, with their drawings."""
    (folder / "circuits").mkdir()
    known, records = tasks.names("all"), []
    for name, made_up in MODELS.items():
        model = load_sparse_gpt(name)
        graph = ChannelGraph.from_model(model)
        bound = bind(model, graph, MeanAblation())
        prompts = tasks.build(TASK, model.tokenizer).split("validation")
        for number in range(n_circuits // len(MODELS)):
            circuit = random_node_circuit(graph, share, number)
            profiles = profiles_of(bound, circuit, prompts, model.tokenizer)
            network = Network.of(circuit, model, profiles=profiles)
            task = toy_records.TASKS[0]
            record = toy_records.questioned(made_up, task, "node-pruning", 0)
            circuit_file = f"circuits/{name}-{number}.safetensors"
            path = drawing_path(folder / circuit_file)
            path.write_text(network.to_json(), encoding="utf-8")
            task = known[number] if number < len(known) else f"task_{number}"
            records.append(replace(record, model=name, task=task, circuit=circuit_file))
            print(f"{name} {number}: {len(network.nodes)} nodes, {len(network.edges)} edges drawn")
    return Results(tuple(records), folder)


def load_times(page: Page, url: str) -> dict[str, float]:
    """Load the page once."""
    page.set_default_timeout(TIMEOUT)
    page.goto(url)
    page.locator("#circuit").scroll_into_view_if_needed()
    page.wait_for_selector(DRAWN)
    drawn = page.evaluate("performance.now()")
    timing: dict[str, float] = page.evaluate(
        "performance.getEntriesByType('navigation')[0].toJSON()"
    )
    before = page.locator("#circuit").get_attribute("data-drawn")
    page.locator("[data-menu]").first.select_option(index=1)
    page.wait_for_function(
        """(before) => { const div = document.getElementById("circuit");
            return div.dataset.drawn !== before && !document.querySelector(".profile").hidden }""",
        arg=before,
    )
    chosen = page.evaluate("performance.now()") - drawn
    return {
        "readable": timing["domContentLoadedEventEnd"] / 1000,
        "loaded": timing["loadEventEnd"] / 1000,
        "first circuit drawn": drawn / 1000,
        "another circuit drawn": chosen / 1000,
    }


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--circuits", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.15, help="of the nodes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where to keep the page")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "google-chrome")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        results = make_results(Path(folder), options.circuits, options.share)
        path = write_report(results, options.out or Path(folder) / "report.html").resolve()
        print(f"{len(results)} circuits, {path.stat().st_size / 2**20:.1f} MiB")
        arguments = ["--no-sandbox", "--disable-gpu"]
        found: list[dict[str, Any]] = []
        for _ in range(options.repeats):
            browser = playwright.chromium.launch(executable_path=options.chromium, args=arguments)
            found.append(load_times(browser.new_page(viewport=VIEWPORT), path.as_uri()))
            browser.close()
    for name in found[0]:
        values = [one[name] for one in found]
        print(f"{name:24}{median(values):7.2f} s   ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
