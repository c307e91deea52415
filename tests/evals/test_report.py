"""The report: its numbers are those of the records, its circuits those of the files."""

import base64
import gzip
import html
import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_lens.ablation import MeanAblation
from sparse_lens.circuit import Circuit
from sparse_lens.evals.compare import compare
from sparse_lens.evals.harness.profiling import profiles_of
from sparse_lens.evals.report import report_html, write_report
from sparse_lens.evals.report.figures import TIMES, ratio_note
from sparse_lens.evals.results import Results
from sparse_lens.graphs import ChannelGraph
from sparse_lens.patching import bind
from sparse_lens.plotting import Network
from sparse_lens.plotting.drawing import network_spec
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals import toy_records
from tests.evals.toy_comparison import BUDGETS, ByIndex, EdgesByIndex, Failing

EASY = 5.0
"""A target that the empty circuit meets, and random ones do, too."""


@pytest.fixture(scope="module")
def made_up() -> str:
    return report_html(Results(toy_records.records()))


def text_of(page: str) -> str:
    """What a reader sees, without scripts."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def figures(page: str) -> dict[str, Any]:
    found = re.findall(r'id="figure-([^"]*)">([^<]*)<', page)
    return {name: json.loads(gzip.decompress(base64.b64decode(packed))) for name, packed in found}


def circuits(page: str) -> dict[tuple[str, ...], dict[str, Any]]:
    (block,) = re.findall(r'id="data-circuits">(.*?)</script>', page)
    return {tuple(entry["key"]): entry for entry in json.loads(block)}


def rows(page: str, *, controls: bool = False) -> list[list[str]]:
    """The table of the circuits, or that of their controls."""
    tables = re.findall(r'<table class="sortable">(.*?)</table>', page, flags=re.DOTALL)
    circuits_table, controls_table = tables
    table = controls_table if controls else circuits_table
    return [
        [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<td.*?</td>", row)]
        for row in table.split("<tr")
        if "<td" in row
    ]


def test_seeds_are_those_of_methods_with_randomness():
    kept = [
        replace(record, deterministic=record.method == "attribution-patching")
        for record in toy_records.records()
        if record.method == "random" or (record.method, record.seed) == ("attribution-patching", 0)
    ]
    page = report_html(Results(tuple(kept)))
    text = text_of(page)
    assert "2 methods and 2 seeds;" in text
    assert "Seeds 0, 1 Deterministic attribution-patching" in text
    for (*_, method), entry in circuits(page).items():  # 0 is attribution, which comes first
        assert ("· deterministic" in entry["caption"]) == (method == "0")
    once = [record for record in kept if record.deterministic]
    assert "1 method and no randomness;" in text_of(report_html(Results(tuple(once))))


def test_the_headline_is_the_geometric_mean(made_up):
    """Over tasks and seeds, by hand; every model can do both tasks."""
    text = text_of(made_up)

    def mean(model: str, edges_a_node: int) -> float:
        sizes = [  # of the method that needs the fewest; a toy circuit has half as many nodes
            toy_records.edges_of(model, task, "attribution-patching", seed) // edges_a_node
            for task in toy_records.TASKS
            for seed in (0, 1)
        ]
        return float(torch.tensor(sizes).double().log().mean().exp())

    sparse = f"{mean('sparse<1>', 2):.3g} nodes and {mean('sparse<1>', 1):.3g} edges a task"
    dense = f"{mean('dense&co', 2):,.0f} and {mean('dense&co', 1):,.0f}"
    assert f"sparse<1> needs {sparse}, dense&co {dense} (attribution-patching)" in text
    assert "of 700 nodes and 5,000 edges" in text
    ranges = "range over 2 tasks: 10 to 10; range over 2 seeds: 10 to 10"
    assert f"10 times the edges of sparse<1> ({ranges})" in text
    assert text.index("Nodes and edges a task, by node-pruning") < text.index(
        "by attribution-patching"
    )
    assert "edges a task, by random" not in text
    missed = (
        "2 of 4 missed on held-out prompts, counted with its own size: for_while, my <i>task</i>"
    )
    assert missed in text
    assert "unmet, counted as the full graph" not in text


def test_it_says_what_was_measured(made_up):
    text = text_of(made_up)
    for part in (
        "Loss-matched: sparse<1> 3.15, dense&co 3.13 (nats a token on held-out pretraining text).",
        "that meet a target (task loss 0.145), for 2 tasks, 2 models, 3 methods and 3 seeds",
        "MeanAblation()",
        "12 to train, 14 to choose, 16 held out",
        "Seeds 0, 1",
        'n_steps 7, objective {"type": "<Loss>"}',
        "sparse<1> 1,000 10.0% 3.154 700 5,000 2 of 2",
    ):
        assert part in text


def test_every_row_has_its_numbers(made_up):
    found = {tuple(row[:3]): row[3:] for row in rows(made_up)}
    expected = {
        (task, model, method)
        for task in toy_records.TASKS
        for model in toy_records.MODELS
        for method in toy_records.METHODS
    }
    assert set(found) == expected
    for (task, model, method), cells in found.items():
        edges = sum(toy_records.edges_of(model, task, method, seed) for seed in (0, 1)) / 2
        if method == "random":
            assert cells[:3] == ["unmet", "5,000", "4,999"]
        else:
            assert cells[:3] == ["missed (1 of 2 seeds)", f"{edges:,.0f}", f"{edges - 1:,.0f}"]
        assert cells[4:8] == ["0.145", "0.290", "97.5%", "97.5%"]
        assert cells[8:] == ["2.5", "30"]
    controls = {tuple(row[:3]): row[3:] for row in rows(made_up, controls=True)}
    assert set(controls) == expected
    for cells in controls.values():
        assert cells == ["0.145", "0.010", "1.600", "2.500", "3.145"]


def test_answers_to_questions_stand_beside_the_circuit(made_up):
    """Means over seeds and draws, but the worst of the subsets, and what each column means."""
    job = ("sparse<1>", "for_while", "node-pruning")
    asked = tuple(toy_records.questioned(*job, seed) for seed in (0, 1))
    plain = toy_records.record("dense&co", "for_while", "node-pruning", 0)
    page = report_html(Results((*asked, plain)))
    found = {row[1]: row[3 + 5 :] for row in rows(page, controls=True)}
    assert found["sparse<1>"] == ["0.400", "1.100", "0.200", "0.300", "50%"]
    assert found["dense&co"] == ["-"] * 5
    text = text_of(page)
    assert "does it hold" in text
    for words in (
        "resampled What is absent carries",
        "frozen Norms divide",
        "subsets, worst Random parts",
        "by less than 0.02 nats",
    ):
        assert words in text
    assert "dispensable_below 0.02" in text
    for words in ("does it hold", "spare", "What is absent carries", "Questions"):
        assert words not in text_of(made_up)


def test_evidence_and_doubts_come_first(made_up):
    text = text_of(made_up)
    doubts = (
        "8 of 16 circuits meet the target on prompts that no circuit was chosen on: 50% missed."
    )
    assert text.index(doubts) < text.index("edges a task, by")
    assert "two-way: the cross-entropy of the answer against its distractor alone" in text
    row = "attribution-patching dense&co 219 439 4 of 4 2 of 4 0.29 5.00 98%"
    assert row in text


@pytest.mark.parametrize(
    ("graph", "words"),
    [("channel", "an edge is a weight that is not zero"), ("component", "what it writes to the")],
)
def test_it_says_what_an_edge_is(graph, words):
    jobs = tuple(
        toy_records.record(model, "for_while", "node-pruning", 0, graph=graph)
        for model in toy_records.MODELS
    )
    text = text_of(report_html(Results(jobs)))
    assert words in text
    assert ("channel graph" in text) == (graph == "channel")


def test_curves_are_the_means_over_seeds(made_up):
    spec = figures(made_up)["curve-1-task_loss"]
    lines = [trace for trace in spec["data"] if trace["meta"]["role"] == "curve"]
    assert len(lines) == 6
    for line in lines:
        assert line["x"] == list(toy_records.BUDGETS)
        assert line["y"] == pytest.approx([10 / n + 0.5 for n in toy_records.BUDGETS])
    chosen = [trace for trace in spec["data"] if trace["meta"]["role"] == "chosen"]
    assert len(chosen) == 4
    assert sorted(chosen[0]["y"]) == pytest.approx([0.14, 0.15])
    assert spec["layout"]["shapes"][0]["y0"] == 0.145
    kinds = {trace["meta"]["role"] for trace in spec["data"]}
    assert kinds == {"curve", "chosen", "random", "full", "empty"}


def test_controls_stand_beside_the_sizes(made_up):
    spec = figures(made_up)["sizes-0"]
    losses = {
        trace["meta"]["role"]: trace["x"] for trace in spec["data"] if trace.get("xaxis") == "x2"
    }
    expected = {"chosen": 0.145, "full": 0.01, "random": 1.6, "empty": 2.5, "ablated": 3.145}
    assert set(losses) == set(expected)
    for kind, loss in expected.items():
        assert losses[kind] == pytest.approx([loss] * 4)
    (notes,) = (trace for trace in spec["data"] if trace["meta"]["role"] == "notes")
    assert [note.split()[-1] for note in notes["text"]] == ["10", "10"]
    unmet = [t for t in figures(made_up)["sizes-2"]["data"] if t["meta"]["role"] == "sizes"]
    assert [set(trace["x"]) for trace in unmet] == [{5000}]


def test_a_seed_that_met_its_target_is_not_called_unmet():
    met, unmet = (
        toy_records.record("dense&co", "for_while", "node-pruning", seed) for seed in range(2)
    )
    full = toy_records.measurement("chosen", toy_records.FULL_EDGES, 1.0)
    unmet = replace(unmet, met_on_validation=False, measurements=(full, *unmet.measurements[1:]))
    shown = figures(report_html(Results((met, unmet))))
    sizes = [t for t in shown["sizes-0"]["data"] if t["meta"]["role"] == "sizes"]
    assert {tuple(t["x"]): "not met" in t["hovertext"][0] for t in sizes} == {
        (met.chosen.n_edges,): False,
        (toy_records.FULL_EDGES,): True,
    }
    curves = shown["curve-0-task_loss"]["data"]
    (chosen,) = (t for t in curves if t["meta"]["role"] == "chosen")
    assert chosen["x"] == [met.chosen.n_edges]


def test_text_is_escaped_everywhere(made_up):
    assert "<script>alert" not in made_up
    assert "ValueError: <script>alert(1)</script>" in text_of(made_up)
    page = re.sub(r"<script\b.*?</script>", "", made_up, flags=re.DOTALL)
    assert "<i>task" not in page
    assert "sparse<1>" not in page
    assert "dense&co" not in page
    for spec in figures(made_up).values():
        assert "<i>task" not in json.dumps(spec)


def test_no_network(made_up):
    """Beside plotly, which is packed."""
    assert not re.search(r"https?:|\ssrc=|<link|@import|url\(", made_up)


def test_the_order_of_the_records_does_not_matter(made_up):
    shuffled = list(toy_records.records())
    random.Random(0).shuffle(shuffled)
    assert report_html(Results(tuple(shuffled))) == made_up


def test_one_job_is_enough():
    job = toy_records.record("dense&co", "for_while", "random", 0)
    text = text_of(report_html(Results((job,))))
    assert "All models are dense" in text
    assert "unmet" in text


def test_models_that_can_do_nothing():
    jobs = tuple(
        toy_records.record(
            model, "for_while", "node-pruning", 0, full_validation_loss=3.0,
            measurements=tuple(
                toy_records.measurement(kind, 10, 3.0)
                for kind in ("chosen", "full", "empty", "random")
            ),
        )
        for model in toy_records.MODELS
    )  # fmt: skip
    text = text_of(report_html(Results(jobs)))
    assert text.startswith("Circuits compared Circuits compared")
    assert "No task can be done by all models" in text
    assert "0 of 1; not for_while" in text


def test_nothing_to_report(tmp_path):
    failed = toy_records.records()[-1]
    with pytest.raises(ValueError, match="none of 1 jobs is done"):
        write_report(Results((failed,)), tmp_path / "report.html")
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory):
    """A comparison that really ran: its results, and its models."""
    out = tmp_path_factory.mktemp("run")
    models = [toy.model(), toy.model(d_mlp=4)]
    methods = {"nodes": ByIndex(), "edges": EdgesByIndex(), "failing": Failing()}
    results = compare(
        models, [toy.task("one"), toy.task("two")], methods, out=out, budgets=BUDGETS,
        target=Target(EASY), random_draws=1,
    )  # fmt: skip
    return results, models


def test_circuits_are_those_of_the_files(toy_run):
    """Models given as objects: drawn with weights and scores as the jobs ran, found in the page."""
    results, models = toy_run
    page = report_html(results)
    drawn, specs = circuits(page), figures(page)
    graphs = {
        ChannelGraph.from_model(m).fingerprint: (ChannelGraph.from_model(m), m) for m in models
    }
    for record in results.done:
        graph, model = graphs[record.graph_fingerprint]
        circuit = Circuit.load(results.circuit_path(record), graph)
        method = {"nodes": ByIndex(target=Target(EASY)), "edges": EdgesByIndex()}[record.method]
        scores = method.discover(model, graph, toy.task(), ablation=MeanAblation()).scores
        bound = bind(model, graph, MeanAblation())
        profiles = profiles_of(bound, circuit, toy.task().split("validation"), None)
        network = Network.of(circuit, model, scores=scores, profiles=profiles)
        number = ("edges", "nodes").index(record.method)
        entry = drawn[record.task, record.model, str(number)]
        assert specs[entry["figure"]] == json.loads(json.dumps(network_spec(network)))
        assert f"{record.chosen.n_edges:,} edges" in entry["caption"]
    assert len(drawn) == len(results.done) == 8
    assert text_of(page).count("ZeroDivisionError: no circuit today") == 8


@pytest.mark.slow
def test_the_report_comes_from_the_folder_alone(toy_run, tmp_path):
    """Another process, which has no models, writes the same bytes."""
    results, _ = toy_run
    shutil.copytree(results.folder, tmp_path / "moved")
    first = write_report(results, tmp_path / "first.html").read_bytes()
    program = "import sys; from sparse_lens.cli import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", program, "report", str(tmp_path / "moved")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == f"{tmp_path / 'moved' / 'report.html'}\n"
    assert (tmp_path / "moved" / "report.html").read_bytes() == first
    left = {path.name for path in (tmp_path / "moved").iterdir() if path.name != ".lock"}
    assert left == {"report.html", "results.jsonl", "circuits"}


def test_a_lost_drawing_is_said_to_be_missing(toy_run, tmp_path):
    results, _ = toy_run
    elsewhere = Results(results.records, tmp_path)
    page = report_html(elsewhere)
    captions = [entry["caption"] for entry in circuits(page).values()]
    assert all("Not drawn" in caption for caption in captions)
    assert "Some circuits are not beside the results" in page
    assert "Some circuits are not beside the results" not in report_html(results)


def test_an_unmet_target_has_no_drawing(tmp_path):
    results = compare(
        [toy.model()], [toy.task()], {"nodes": ByIndex()}, out=tmp_path, budgets=BUDGETS,
        target=Target(1e-9),
    )  # fmt: skip
    assert {path.suffix for path in (tmp_path / "circuits").iterdir()} == {".safetensors"}
    (entry,) = circuits(report_html(results)).values()
    assert entry["figure"] is None
    assert "No circuit met the target" in entry["caption"]


@pytest.mark.parametrize(
    ("ratios", "text"),
    [
        ([], ""),
        ([3.21], f"{TIMES} 3.21"),
        ([9.5, 2.0], f"{TIMES} 2 to 9.5"),
        ([3.0, 9.5, 2.0], f"{TIMES} 2 to 9.5"),
        ([2.0, 2.0], f"{TIMES} 2"),
    ],
)
def test_ratios_to_several_sparse_models_are_a_range(ratios, text):
    assert ratio_note(ratios) == text
