"""What a discovery answers, how costs are counted, and which methods are installed."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_lens.baselines import AttributionPatching, EdgePruning, RandomScores
from sparse_lens.circuit import Circuit
from sparse_lens.method import Cost, CostMeter, Discovery, Method, check_task, metered, registry
from sparse_lens.node_pruning import NodePruning
from sparse_lens.scores import Scores
from sparse_lens.search import ChosenCircuit
from tests import planted
from tests.graphs import tiny

GRAPH = tiny.COMPONENT
NAMES = list(GRAPH.edge_names())
SCORES = Scores(
    GRAPH,
    edges={"edges": torch.linspace(-2, 1, GRAPH.n_readers * GRAPH.n_writers).reshape(
        GRAPH.n_readers, GRAPH.n_writers
    )},
)  # fmt: skip


def discovery(**changes: Any) -> Discovery:
    values: dict[str, Any] = {
        "method": RandomScores(),
        "task": "t",
        "scores": SCORES,
        "chosen": None,
        "cost": Cost(),
        "seed": 0,
    }
    return Discovery(**(values | changes))


def first_edges(n: int) -> Circuit:
    return Circuit.from_edge_names(GRAPH, NAMES[:n])


def test_a_ranking_gives_a_circuit_of_any_size() -> None:
    found, by_name = discovery(), SCORES.by_name()
    for n in (0, 1, 5, len(NAMES)):
        best = sorted(NAMES, key=lambda name: -abs(by_name[name]))[:n]
        assert found.at(n_edges=n) == Circuit.from_edge_names(GRAPH, best)
    signed = sorted(NAMES, key=lambda name: -by_name[name])[:5]
    assert discovery(absolute=False).at(n_edges=5) == Circuit.from_edge_names(GRAPH, signed)


@pytest.mark.parametrize(
    ("n_edges", "nearest"),
    [(0, 3), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5), (8, 9), (9, 9), (10, 9), (1000, 9)],
)
def test_a_method_with_circuits_gives_the_nearest_and_of_two_the_smaller(
    n_edges: int, nearest: int
) -> None:
    for order in ((3, 5, 9), (9, 5, 3), (5, 9, 3)):
        found = discovery(circuits=tuple(map(first_edges, order)))
        assert found.at(n_edges=n_edges) == first_edges(nearest)


def test_the_nearest_by_nodes() -> None:
    names = list(GRAPH.node_names())
    small, large = (Circuit.from_node_names(GRAPH, names[:n]) for n in (2, 6))
    found = discovery(circuits=(large, small))
    for n_nodes, expected in ((0, small), (4, small), (5, large), (99, large)):
        assert found.at(n_nodes=n_nodes) == expected


def test_circuits_come_before_the_ranking() -> None:
    assert discovery(circuits=(first_edges(4),)).at(n_edges=1).n_edges == 4


@pytest.mark.parametrize("circuits", [(), (first_edges(3),)])
def test_one_size_is_asked_for(circuits: tuple[Circuit, ...]) -> None:
    found = discovery(circuits=circuits)
    for sizes in ({}, {"n_edges": 1, "n_nodes": 1}):
        with pytest.raises(ValueError, match="either n_edges or n_nodes"):
            found.at(**sizes)


def test_scores_of_edges_give_no_number_of_nodes() -> None:
    with pytest.raises(ValueError, match=r"top\(n_edges=\.\.\.\)"):
        discovery().at(n_nodes=3)


def test_the_chosen_circuit() -> None:
    chosen = ChosenCircuit(first_edges(3), 0.1, True, ((3, 0.1),))
    assert discovery(chosen=chosen).circuit is chosen.circuit


def test_no_circuit_is_chosen_without_validation_prompts() -> None:
    with pytest.raises(ValueError, match=r"'t' has no validation split.*discovery\.at\(n_edges="):
        _ = discovery().circuit


def test_a_discovery_prints_its_circuit_and_no_numbers_of_its_ranking() -> None:
    chosen = ChosenCircuit(first_edges(3), 0.1, True, ((3, 0.1),))
    shown = repr(discovery(chosen=chosen))
    assert str(SCORES) in shown
    assert f"chosen=ChosenCircuit(circuit={chosen.circuit}, loss=0.1, met_target=True" in shown
    assert "tensor" not in shown


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("method", [AttributionPatching(), NodePruning(), EdgePruning()])
def test_tasks_in_tokens_that_a_model_lacks_are_refused(method: Method, split: str) -> None:
    problem, task = planted.problems()["dense, component, mean"], planted.task()
    prompts = task.split(split)
    beyond = replace(prompts, corrupted=prompts.corrupted + 1000)
    asked = replace(task, **{split: beyond})
    with pytest.raises(ValueError, match=r"corrupted has the token 10.*vocabulary ends at"):
        method.discover(problem.model, problem.graph, asked, ablation=problem.ablation)


def test_prompts_are_no_task() -> None:
    # As for users: the checks of types that run under test would come first.
    check = inspect.unwrap(check_task)
    with pytest.raises(ValueError, match=r"takes a Task, got Prompts; .* Task\(name, train="):
        check(planted.problems()["dense, component, mean"].model, planted.task().train)


@pytest.mark.parametrize("method", [NodePruning(n_steps=2), EdgePruning(n_steps=2)])
def test_gates_are_learned_also_where_gradients_are_off(method: Method) -> None:
    """As in notebooks that begin with torch.set_grad_enabled(False)."""
    problem = planted.problems()["dense, component, mean"]

    def scores() -> dict[str, float]:
        return method.discover(
            problem.model, problem.graph, planted.task(), ablation=problem.ablation
        ).scores.by_name()

    expected = scores()
    with torch.no_grad():
        assert scores() == expected
        assert not torch.is_grad_enabled()


def test_our_methods_are_installed() -> None:
    installed = registry()
    assert installed["node-pruning"] is NodePruning
    assert installed["attribution-patching"] is AttributionPatching
    assert installed["random"] is RandomScores
    assert list(installed) == sorted(installed)
    assert all(issubclass(method, Method) for method in installed.values())


def test_a_package_adds_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_package.py").write_text(
        "from sparse_lens.baselines import RandomScores\n\nclass Theirs(RandomScores): ...\n"
    )
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sparse_lens.methods]\ntheirs = their_package:Theirs\n")
    before = registry()
    assert "theirs" not in before
    monkeypatch.syspath_prepend(tmp_path)
    installed = registry()
    assert installed["theirs"].__name__ == "Theirs"
    assert set(installed) == {"theirs", *before}


def test_a_package_that_is_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sparse_lens.methods]\ntheirs = nowhere:Theirs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"'theirs' of their-package .* nowhere:Theirs"):
        registry()


def test_passes_inside_the_context_are_counted() -> None:
    model, tokens = tiny.dense_model(), torch.zeros(1, 4, dtype=torch.long)
    model(tokens)
    with metered(model) as meter:
        assert meter.cost().forward_passes == 0
        model(tokens)
        model.run_with_cache(tokens)
        model.run_with_hooks(tokens)
        meter.backward_passes += 2
        cost = meter.cost()
    model(tokens)
    assert (cost.forward_passes, cost.backward_passes) == (3, 2)
    assert meter.forward_passes == 3


def test_counting_ends_with_an_exception() -> None:
    model, tokens = tiny.dense_model(), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(RuntimeError, match="on purpose"), metered(model) as meter:
        raise RuntimeError("on purpose")
    model(tokens)
    assert meter.forward_passes == 0
    assert not model.blocks[0]._forward_pre_hooks


def test_seconds_go_on_and_memory_is_a_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 14.0])
    monkeypatch.setattr("sparse_lens.method.time.perf_counter", lambda: next(clock))
    meter = CostMeter("cpu")
    assert meter.cost() == Cost(seconds=2.5)
    assert meter.cost() == Cost(seconds=4.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is measured on CUDA devices")
def test_peak_memory() -> None:
    meter = CostMeter("cuda")
    block = torch.zeros(2**20, device="cuda")
    peak = meter.cost().peak_memory
    assert peak is not None
    assert peak >= block.numel() * block.element_size()
