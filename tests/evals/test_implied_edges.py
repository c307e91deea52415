"""Node circuits on a component graph: their edges are implied, and stand in no column of others."""

import html
import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from sparse_lens.commands.compare_console import Display
from sparse_lens.evals.counting import unit_of
from sparse_lens.evals.harness.running import Progress
from sparse_lens.evals.intervals import geometric_mean
from sparse_lens.evals.records import Record
from sparse_lens.evals.report import report_html
from sparse_lens.evals.results import Results
from sparse_lens.evals.summary import summarize
from tests.evals import toy_records
from tests.evals.test_report import figures, text_of

NODES, EDGES = "node-pruning", "attribution-patching"
NODE_COUNTS = {("sparse<1>", "for_while"): 4, ("sparse<1>", toy_records.TASKS[1]): 9,
               ("dense&co", "for_while"): 12, ("dense&co", toy_records.TASKS[1]): 18}  # fmt: skip


def on_components(model: str, task: str, method: str, **changes: Any) -> Record:
    """A node circuit has all edges between its nodes, here n (n - 1) / 2."""
    given_by = "nodes" if method == NODES else "edges"
    made = toy_records.record(model, task, method, 0, graph="component", circuit_given_by=given_by)
    if method == NODES:
        n = NODE_COUNTS[model, task]
        chosen = replace(made.chosen, n_nodes=n, n_edges=n * (n - 1) // 2)
        made = replace(made, measurements=(chosen, *made.measurements[1:]))
    return replace(made, **changes)


RECORDS = tuple(
    on_components(model, task, method)
    for model in toy_records.MODELS
    for task in toy_records.TASKS
    for method in (NODES, EDGES)
)


@pytest.mark.parametrize(
    ("graph", "given_by", "met", "implied"),
    [
        ("component", "nodes", True, True),
        ("component", "edges", True, False),
        ("channel", "nodes", True, False),
        ("component", "nodes", False, False),
    ],
)
def test_which_edges_are_implied(graph: Any, given_by: Any, met: bool, implied: bool):
    """The full graph, which counts where a target is unmet, is the same given by either."""
    made = replace(RECORDS[0], graph=graph, circuit_given_by=given_by, met_on_validation=met)
    assert made.has_implied_edges == implied
    unmet = replace(RECORDS[0], met_on_validation=False)
    assert unit_of([unmet, made]) == ("nodes" if implied else "edges")


def test_ratios_are_of_nodes():
    """By hand: 12 / 4 = 3 and 18 / 9 = 2; edges of the other method are ten times as many."""
    by_method = {ratio.setting.method: ratio for ratio in summarize(RECORDS).ratios}
    nodes, edges = by_method[NODES], by_method[EDGES]
    assert (nodes.unit, edges.unit) == ("nodes", "edges")
    assert list(nodes.by_task.values()) == [pytest.approx(3), pytest.approx(2)]
    assert nodes.spread.mean == pytest.approx(6**0.5)
    assert edges.spread.mean == pytest.approx(10)
    assert any(
        "node-pruning: dense&co needs 2.45 times as many nodes as sparse<1> (" in line
        for line in summarize(RECORDS).statements
    )


def test_an_unmet_target_is_in_the_unit_of_its_method():
    unmet = replace(RECORDS[0], met_on_validation=False)
    means = [
        mean for mean in summarize((unmet, *RECORDS[1:])).means if mean.setting.method == NODES
    ]
    assert [mean.unit for mean in means] == ["nodes", "nodes"]
    assert means[0].nodes == pytest.approx(geometric_mean([700, 9]))


def table(page: str) -> tuple[list[str], list[dict[str, str]]]:
    """Headings, and rows by heading, of the table of circuits."""
    (found, _) = re.findall(r'<table class="sortable">(.*?)</table>', page, flags=re.DOTALL)

    def texts(part: str, tag: str) -> list[str]:
        cells = re.findall(rf"<{tag}\b.*?</{tag}>", part, flags=re.DOTALL)
        return [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in cells]

    headings = texts(found.split("<tr>")[2], "th")
    rows = [texts(row, "td") for row in re.split(r"<tr\b", found) if "<td" in row]
    return headings, [dict(zip(headings, row, strict=True)) for row in rows]


def test_a_column_of_their_own_in_the_report():
    headings, rows = table(report_html(Results(RECORDS)))
    assert "edges between" in headings
    for row in rows:
        if row["Method"] == NODES:
            n = NODE_COUNTS[row["Model"], row["Task"]]
            assert (row["edges"], row["paths"]) == ("-", "-")
            assert (row["edges between"], row["nodes"]) == (f"{n * (n - 1) // 2}", f"{n}")
        else:
            edges = toy_records.edges_of(row["Model"], row["Task"], EDGES, 0)
            assert (row["edges"], row["edges between"]) == (f"{edges:,}", "-")
    on_channels, _ = table(report_html(Results(toy_records.records())))
    assert "edges between" not in on_channels


def test_the_headline_takes_edges_from_methods_that_chose_them():
    """Node circuits of the sparse model have 6 and 36 edges, fewer than the 40 and 47 chosen."""
    page = report_html(Results(RECORDS))
    text = text_of(page)
    chosen = geometric_mean([toy_records.edges_of("sparse<1>", task, EDGES, 0)
                             for task in toy_records.TASKS])  # fmt: skip
    assert f"and {chosen:.3g} edges a task, dense&co" in text
    assert text.split(" (attribution-patching)")[0].count("sparse<1> needs") == 1
    assert "Nodes a task, by node-pruning" in text
    assert "Nodes and edges a task, by attribution-patching" in text
    assert "6 nodes of 700 nodes and 5,000 edges all 14.7 edges between them count" in text
    assert "2.45 times the nodes of sparse<1>" in text
    evidence = text[text.index("Evidence and doubts") : text.index("Nodes a task")]
    assert "node-pruning sparse<1> 6 - 2 of 2" in evidence
    axes = [
        figure["layout"]["xaxis"]["title"]["text"]
        for name, figure in figures(page).items()
        if name.startswith("sizes-")
    ]
    assert axes == ["nodes of the circuit", "edges of the circuit"]
    only = text_of(report_html(Results(tuple(r for r in RECORDS if r.method == NODES))))
    assert "sparse<1> needs 6 nodes a task, dense&co 14.7" in only


def test_a_column_of_their_own_in_the_terminal():
    console = Console(file=io.StringIO(), width=140, color_system=None)
    display = Display(console)
    for number, made in enumerate(RECORDS, start=1):
        progress = Progress(number, 8, made.model, made.task, made.method, 0, {}, made)
        display.show(progress)
    display.summary(Results(RECORDS))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    lines = printed.splitlines()
    row = next(line for line in lines if line.startswith("sparse<1>") and NODES in line)
    assert "4 nodes" in row
    assert "6/" not in row
    header = next(line for line in lines if line.split()[:2] == ["method", "model"])
    assert header.split()[-2:] == ["edges", "between"]
    means = next(line for line in lines if line.split()[:2] == [NODES, "sparse<1>"])
    # nodes, by seed, unmet, missed, no edge, edges between
    assert means.split()[2:] == ["6", "6", "0", "0", "0", "14.7"]
    means = next(line for line in lines if line.split()[:2] == [EDGES, "sparse<1>"])
    assert means.split()[3:5] == ["43.4", "43.4"]
