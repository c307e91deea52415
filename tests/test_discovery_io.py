"""Discoveries in files."""

import importlib
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from sparse_lens import graph_file
from sparse_lens.ablation import MeanAblation
from sparse_lens.baselines import ACDC, AttributionPatching, EdgePruning
from sparse_lens.calibration import Calibration
from sparse_lens.circuit import Circuit
from sparse_lens.cost import Cost
from sparse_lens.discovery import Discovery
from sparse_lens.evals.harness.measuring import Meter, measurements_of
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import KLDivergence, TaskLoss
from sparse_lens.patching import bind
from sparse_lens.scores import Scores
from sparse_lens.search import ChosenCircuit
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import ByIndex
from tests.graphs.tiny import GRAPHS, random_edge_circuit, random_node_circuit

every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


def random_scores(graph, *, nodes: bool) -> Scores:
    generator = torch.Generator().manual_seed(4)
    shapes = graph.site_shapes if nodes else graph.block_shapes
    values = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if nodes:
        values[next(iter(values))][0] = torch.inf
        return Scores(graph, nodes=values)
    return Scores(graph, edges=values, absolute=False)


def discovery_on(graph, *, nodes: bool = True, **changes: Any) -> Discovery:
    """One with something in every field."""
    calibration = Calibration(scale=1.1, shift=-0.3)
    circuit = (random_node_circuit if nodes else random_edge_circuit)(graph, 0.5, 1)
    values: dict[str, Any] = {
        "method": ByIndex(objective=KLDivergence(), step=3),
        "task": "a task",
        "scores": random_scores(graph, nodes=nodes),
        "chosen": ChosenCircuit(circuit, 0.1, True, ((7, 0.1), (3, 1 / 3)), calibration),
        "cost": Cost(forward_passes=5, backward_passes=2, seconds=0.7, peak_memory=9),
        "seed": 6,
        "history": ({"step": 0.0, "loss": 1 / 7}, {"step": 1.0, "loss": float("inf")}),
        "circuits": (Circuit.empty(graph), random_edge_circuit(graph, 0.3, 2), circuit),
        "versions": {"sparse-lens": "0.0", "torch": "9"},
        "warnings": ("k_coef=1: the run collapsed.",),
    }
    return Discovery(**(values | changes))


@every_graph
@pytest.mark.parametrize("nodes", [True, False], ids=["nodes", "edges"])
def test_what_is_saved_is_loaded(graph, nodes, tmp_path):
    saved = discovery_on(graph, nodes=nodes)
    saved.save(tmp_path / "discovery")
    loaded = Discovery.load(tmp_path / "discovery", graph)
    names = ("method", "task", "cost", "seed", "history", "warnings", "circuits", "versions")
    for name in names:
        assert getattr(loaded, name) == getattr(saved, name), name
    for name in ("circuit", "loss", "met_target", "tried", "calibration"):
        assert getattr(loaded.chosen, name) == getattr(saved.chosen, name), name
    assert (loaded.scores.nodes is None) == (not nodes)
    assert loaded.scores.by_name() == saved.scores.by_name()
    assert loaded.scores.absolute == saved.scores.absolute
    assert [file.name for file in tmp_path.iterdir()] == ["discovery"]


@every_graph
@pytest.mark.parametrize("nodes", [True, False], ids=["nodes", "edges"])
def test_what_a_method_started_from_is_saved_with_it(graph, nodes, tmp_path):
    start = (random_node_circuit if nodes else random_edge_circuit)(graph, 0.4, 5)
    acdc = ACDC(thresholds=(0.1, 0.2), start=start)
    hybrid = EdgePruning(initial=random_scores(graph, nodes=nodes), n_steps=7)
    for i, method in enumerate((acdc, hybrid)):
        discovery_on(graph, method=method).save(tmp_path / str(i))
    refined, pruned = (Discovery.load(tmp_path / str(i), graph).method for i in range(2))
    assert isinstance(refined, ACDC)
    assert refined == acdc
    assert isinstance(pruned, EdgePruning)
    assert isinstance(pruned.initial, Scores)
    assert isinstance(hybrid.initial, Scores)
    assert pruned.initial.by_name() == hybrid.initial.by_name()
    assert replace(pruned, initial=None) == replace(hybrid, initial=None)


def test_a_method_that_holds_something_of_another_graph_is_refused(tmp_path):
    start = random_node_circuit(GRAPHS["channel"], 0.4, 5)
    with pytest.raises(ValueError, match="belongs to another graph"):
        discovery_on(GRAPHS["component"], method=ACDC(start=start)).save(tmp_path / "discovery")
    assert not list(tmp_path.iterdir())


def test_a_discovery_without_choice_replaces_what_is_there(tmp_path):
    graph = GRAPHS["component"]
    discovery_on(graph).save(tmp_path / "discovery")
    discovery_on(graph, chosen=None, circuits=(), history=()).save(tmp_path / "discovery")
    loaded = Discovery.load(tmp_path / "discovery", graph)
    assert (loaded.chosen, loaded.circuits, loaded.history) == (None, (), ())


@pytest.mark.parametrize("method", [NodePruning(n_steps=2, batch_size=4), AttributionPatching()])
@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
def test_it_is_evaluated_later_without_running_again(method, graph_of, tmp_path):
    model, task = toy.model(), toy.task()
    graph = graph_of(model)
    bound = bind(model, graph, MeanAblation())
    found = method.discover(model, graph, task, ablation=bound)
    found.save(tmp_path / "discovery")
    loaded = Discovery.load(tmp_path / "discovery", graph_of(model))
    assert loaded.method == method
    before, after = (
        measurements_of(
            Meter(bound, task.split("held_out")), discovery, discovery.circuit,
            budgets=(3, 20), random_draws=0, seed=0,
        )
        for discovery in (found, loaded)
    )  # fmt: skip
    assert after == before


def test_scores_are_selected_from_as_before(tmp_path):
    graph = GRAPHS["component"]
    edges = {"edges": torch.rand(graph.edge_support["edges"].shape)}
    for scores in (Scores(graph, edges=edges), Scores(graph, edges=edges, greedy=True)):
        saved = discovery_on(graph, scores=scores, circuits=())
        saved.save(tmp_path / "discovery")
        loaded = Discovery.load(tmp_path / "discovery", graph)
        assert loaded.scores.greedy == scores.greedy
        assert loaded.at(n_edges=9) == saved.at(n_edges=9)


def test_a_discovery_of_another_model_is_refused(tmp_path):
    discovery_on(GRAPHS["channel"]).save(tmp_path / "discovery")
    with pytest.raises(ValueError, match=r"a discovery of another graph: a channel graph .* finge"):
        Discovery.load(tmp_path / "discovery", GRAPHS["channel, no final_resid"])


def test_what_is_not_a_discovery(tmp_path):
    graph = GRAPHS["channel"]
    with pytest.raises(FileNotFoundError, match="no discovery at"):
        Discovery.load(tmp_path / "nothing", graph)
    Circuit.full(graph).save(tmp_path / "circuit")
    with pytest.raises(ValueError, match=r"not a saved discovery.*got None"):
        Discovery.load(tmp_path / "circuit", graph)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        discovery_on(graph).save(tmp_path / "no" / "folder")


@dataclass(frozen=True)
class WithTensor(ByIndex):
    weights: Any = None


def test_a_method_that_cannot_be_written_down(tmp_path):
    method = WithTensor(weights=torch.ones(2))
    with pytest.raises(ValueError, match=r"cannot write down tensor"):
        discovery_on(GRAPHS["channel"], method=method).save(tmp_path / "discovery")
    assert not any(tmp_path.iterdir())


MODULE = """
from dataclasses import dataclass
from tests.evals.toy_comparison import ByIndex

@dataclass(frozen=True)
class Mine(ByIndex):
    {field}: int = 3
"""


def test_a_file_does_not_choose_what_is_imported(tmp_path, monkeypatch):
    """A method that is not registered must have been imported, with the fields it had."""
    monkeypatch.syspath_prepend(tmp_path)
    graph, path = GRAPHS["channel"], tmp_path / "discovery"
    (tmp_path / "my_method.py").write_text(MODULE.format(field="rounds"))
    mine = importlib.import_module("my_method").Mine(rounds=4)
    discovery_on(graph, method=mine).save(path)
    assert Discovery.load(path, graph).method == mine

    monkeypatch.delitem(sys.modules, "my_method")
    with pytest.raises(ValueError, match=r"my_method\.Mine is imported: import the module"):
        Discovery.load(path, graph)
    assert "my_method" not in sys.modules

    (tmp_path / "my_method.py").write_text(MODULE.format(field="turns"))
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.import_module("my_method")
    with pytest.raises(ValueError, match=r"does not take the fields .*another version"):
        Discovery.load(path, graph)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"class": "sparse_lens.ablation.ZeroAblation", "fields": {}},
            "not a circuit-finding method",
        ),
        ({"class": "subprocess.Popen", "fields": {"args": "ls"}}, "no frozen dataclass subprocess"),
    ],
)
def test_only_methods_are_made(changes, message, tmp_path):
    graph, path = GRAPHS["channel"], tmp_path / "discovery"
    discovery_on(graph).save(path)
    tensors, header = graph_file.read(path, "discovery", graph)
    header["method"] |= changes
    graph_file.write(path, "discovery", graph, tensors, header)
    with pytest.raises(ValueError, match=message):
        Discovery.load(path, graph)


def test_a_registered_method_is_found_by_its_name(tmp_path):
    """Its class may have moved since."""
    graph, path = GRAPHS["channel"], tmp_path / "discovery"
    method = replace(NodePruning(), betas=(0.5, 0.6), objective=TaskLoss())
    discovery_on(graph, method=method).save(path)
    tensors, header = graph_file.read(path, "discovery", graph)
    assert header["method"]["name"] == "node-pruning"
    header["method"]["class"] = "sparse_lens.elsewhere.NodePruning"
    graph_file.write(path, "discovery", graph, tensors, header)
    assert Discovery.load(path, graph).method == method


def test_a_discovery_knows_its_versions():
    discovery = toy.ByIndex().discover(
        toy.model(), ChannelGraph.from_model(toy.model()), toy.task(), ablation=MeanAblation()
    )
    assert discovery.versions["torch"] == torch.__version__
    assert set(discovery.versions) == {"sparse-lens", "torch", "transformer-lens", "python"}
