"""`sparse-lens show` and `sparse-lens report`: pages, and errors that say what to do."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from sparse_lens.circuit import Circuit
from sparse_lens.cli import app
from sparse_lens.commands.show import graph_of
from sparse_lens.evals.compare import compare
from sparse_lens.evals.results import Results
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.models.checkpoint import load_sparse_gpt, save_sparse_gpt
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.plotting import Network
from sparse_lens.plotting.drawing import network_spec
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex
from tests.graphs.tiny import random_edge_circuit, random_node_circuit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, circuits of it, and a comparison."""
    folder = tmp_path_factory.mktemp("show")
    save_sparse_gpt(toy.model(tied_unembed=False), folder / "model")
    model = load_sparse_gpt(folder / "model")
    random_node_circuit(ChannelGraph.from_model(model), 0.6, 0).save(folder / "nodes.safetensors")
    bare = ChannelGraph.from_model(model, final_resid=False)
    random_edge_circuit(bare, 0.6, 0).save(folder / "edges.safetensors")
    component = ComponentGraph.from_model(model, split_embeddings=True)
    random_edge_circuit(component, 0.6, 0).save(folder / "component.safetensors")
    compare(
        [folder / "model"], [toy.task("<task>")], {"nodes": ByIndex()}, out=folder / "run",
        budgets=BUDGETS, target=Target(5.0), random_draws=1,
    )  # fmt: skip
    return folder


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def figure(page: Path, name: str = "circuit") -> dict[str, Any]:
    (packed,) = re.findall(rf'id="figure-{name}">([^<]*)<', page.read_text(encoding="utf-8"))
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.mark.parametrize(
    ("name", "graph_of"),
    [
        ("nodes", ChannelGraph.from_model),
        ("edges", lambda model: ChannelGraph.from_model(model, final_resid=False)),
        ("component", lambda model: ComponentGraph.from_model(model, split_embeddings=True)),
    ],
)
def test_show_draws_the_circuit(folder: Path, tmp_path: Path, name: str, graph_of):
    path, out = folder / f"{name}.safetensors", tmp_path / "page.html"
    code, printed, _ = run("show", path, "--model", folder / "model", "--out", out)
    assert (code, printed) == (0, f"{out}\n")
    model = load_sparse_gpt(folder / "model")
    circuit = Circuit.load(path, graph_of(model))
    expected = network_spec(Network.of(circuit, model))
    assert figure(out) == json.loads(json.dumps(expected))
    page = out.read_text(encoding="utf-8")
    assert f"<b>{circuit.n_edges} edges</b> between {circuit.n_nodes} nodes" in page
    connected = circuit.connected()
    assert f"{connected.n_edges} edges and {connected.n_nodes} nodes on paths" in page
    assert f"<h1>{name}</h1>" in page


def test_show_writes_beside_the_circuit(folder: Path):
    code, printed, _ = run("show", folder / "nodes.safetensors", "--model", folder / "model")
    assert (code, printed) == (0, f"{folder / 'nodes.html'}\n")
    assert (folder / "nodes.html").is_file()


def test_a_table_is_written_where_asked(folder: Path, tmp_path: Path):
    out, csv = tmp_path / "page.html", tmp_path / "table.csv"
    code, printed, _ = run("report", folder / "run", "--out", out, "--csv", csv)
    assert (code, printed) == (0, f"{csv}\n{out}\n")
    assert out.is_file()
    table = pd.read_csv(csv)
    expected = Results.load(folder / "run").to_pandas()
    assert table.task_loss.tolist() == expected.task_loss.tolist()


def test_report_then_show_without_the_model(folder: Path):
    """The comparison kept the drawings, and these are enough."""
    code, printed, _ = run("report", folder / "run")
    report = folder / "run" / "report.html"
    assert (code, printed) == (0, f"{report}\n")
    (circuit,) = (folder / "run" / "circuits").glob("*.safetensors")
    code, printed, _ = run("show", circuit)
    page = circuit.with_suffix(".html")
    assert (code, printed) == (0, f"{page}\n")
    assert "<h1>&lt;task&gt;, model, nodes</h1>" in page.read_text(encoding="utf-8")
    assert figure(page) == figure(report, "circuit-0")


def error(*arguments: str | Path) -> tuple[int, str]:
    code, printed, stderr = run(*arguments)
    (line,) = (line for line in stderr.splitlines() if line.startswith("Error: "))
    assert printed == ""
    assert "Traceback" not in stderr
    return code, line


def test_errors_say_what_to_do(folder: Path, tmp_path: Path):
    nodes = folder / "nodes.safetensors"
    assert error("show", tmp_path / "none.safetensors") == (
        1,
        f"Error: no circuit at {tmp_path / 'none.safetensors'}.",
    )
    code, line = error("show", nodes)
    assert (code, "Pass --model NAME_OR_FOLDER" in line) == (2, True)
    (tmp_path / "text").write_text("not a circuit")
    for arguments in ((), ("--model", folder / "model")):
        code, line = error("show", tmp_path / "text", *arguments)
        assert (code, "is not a saved circuit" in line) == (2, True)
    save_sparse_gpt(toy.model(d_mlp=5, tied_unembed=False), tmp_path / "other")
    code, line = error("show", nodes, "--model", tmp_path / "other")
    assert (code, "one of another model" in line) == (2, True)
    code, line = error("report", tmp_path)
    assert (code, "no results in" in line) == (1, True)


def test_a_circuit_of_a_comparison_says_whose_it_is(folder: Path, tmp_path: Path):
    """Where no target was met there is no drawing, and the error names the model."""
    compare(
        [toy.model()], [toy.task()], {"nodes": ByIndex()}, out=tmp_path, budgets=BUDGETS,
        target=Target(1e-9), random_draws=1,
    )  # fmt: skip
    (circuit,) = (tmp_path / "circuits").glob("*.safetensors")
    code, line = error("show", circuit)
    assert code == 2
    assert re.search(r"It belongs to 'custom-\w{8}'\. Pass --model", line)


def test_weights_are_signed_in_the_page(folder: Path, tmp_path: Path):
    """The page's lines of each sign are as many as the model's weights of that sign."""
    out = tmp_path / "page.html"
    run("show", folder / "edges.safetensors", "--model", folder / "model", "--out", out)
    model = load_sparse_gpt(folder / "model")
    graph = ChannelGraph.from_model(model, final_resid=False)
    kept = Circuit.load(folder / "edges.safetensors", graph).connected()
    weights = graph.edge_weights(model)
    for sign, name in ((1, "positive weight"), (-1, "negative weight")):
        expected = sum(
            int(torch.count_nonzero(kept.edge_mask(block) & (weight.sign() == sign)))
            for block, weight in weights.items()
        )
        drawn = [len(t["meta"]["edges"]) for t in figure(out)["data"] if t.get("name") == name]
        assert sum(drawn) == expected > 0


@pytest.mark.parametrize("option", [False, True])
def test_graphs_are_found_by_their_fingerprints(option: bool):
    model = toy.model()
    channel = ChannelGraph.from_model(model, final_resid=option)
    component = ComponentGraph.from_model(model, split_embeddings=option)
    assert graph_of(model, "channel", channel.fingerprint) == channel
    assert graph_of(model, "component", component.fingerprint) == component
    with pytest.raises(ValueError, match="no channel graph of this model"):
        graph_of(HookedSparseGPT(model.sparse_cfg), "channel", channel.fingerprint)
