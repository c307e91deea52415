"""Families of circuits: counts by hand, and a model whose number of ways is known."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

import pytest
import torch

from sparse_lens.ablation import MeanAblation
from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.circuit import Circuit
from sparse_lens.evals.compare import compare
from sparse_lens.evals.questions import Families, Family, disjoint_circuits, family
from sparse_lens.graphs import ChannelGraph
from sparse_lens.method import Method
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import bind, circuit_logits
from tests import planted, two_ways
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, Half
from tests.graphs.tiny import GRAPHS, random_edge_circuit, random_node_circuit

PRUNING = NodePruning(k_coef=1e-2, n_steps=50)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("edges", [False, True])
def test_core_contingent_and_noise_are_counted_by_name(name: str, edges: bool) -> None:
    make = random_edge_circuit if edges else random_node_circuit
    circuits = tuple(make(GRAPHS[name], 0.6, seed=seed) for seed in range(4))
    found = Family(circuits)
    names = [set(c.edge_names() if edges else c.node_names()) for c in circuits]
    names = [each - {"input", "embed", "pos", "logits"} for each in names]
    counts = Counter(part for each in names for part in each)
    assert int(found.core.sum()) == sum(n == 4 for n in counts.values())
    assert int(found.contingent.sum()) == sum(n in (2, 3) for n in counts.values())
    assert int(found.noise.sum()) == sum(n == 1 for n in counts.values())
    size = fmean(map(len, names))
    assert found.core_share == pytest.approx(int(found.core.sum()) / size)
    assert found.ious == tuple(a.iou(b) for a, b in combinations(circuits, 2))
    assert found.mean_iou == pytest.approx(fmean(found.ious))
    alone = Family(circuits[:1])
    assert alone.mean_iou is None
    assert not alone.noise.any()


@dataclass(frozen=True)
class Recorder(Method):
    """Chooses a random circuit, and keeps what it was given."""

    objective: Objective = TaskLoss()
    log: tuple[list[Any], ...] = ([],)

    def discover(self, model, graph, task, *, ablation, seed=0):
        self.log[0].append((task, seed))
        found = Half().discover(model, graph, task, ablation=ablation, seed=seed)
        assert found.chosen is not None
        return replace(found, chosen=replace(found.chosen, met_target=seed != 5))


def test_runs_have_other_seeds_and_other_draws_of_train_and_validation_prompts() -> None:
    model, task = toy.model(), toy.task()
    graph = ChannelGraph.from_model(model)
    method = Recorder(log=([],))
    circuit = random_node_circuit(graph, 0.5, seed=0)
    found = family(method, toy.bound(graph, model), task, circuit, resamples=3, seed=3)
    (log,) = method.log
    assert [seed for _, seed in log] == [4, 5, 6]
    assert len(found.circuits) == 3  # seed 5 met no target
    assert found.circuits[0] is circuit
    generator = torch.Generator().manual_seed(3)
    for drawn, _ in log:
        for split in ("train", "validation"):
            prompts = task.split(split)
            rows = torch.randint(len(prompts), (len(prompts),), generator=generator)
            assert torch.equal(drawn.split(split).clean, prompts.clean[rows])
            assert torch.equal(drawn.split(split).answers, prompts.answers[rows])
        assert drawn.held_out is task.held_out


@pytest.mark.parametrize("method", [PRUNING, AttributionPatching()])
def test_as_many_disjoint_circuits_as_the_model_has_ways(method: Any) -> None:
    model, task = two_ways.model(), two_ways.task()
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, MeanAblation(tokens=task.train.clean))
    first = method.discover(model, graph, task, ablation=bound).circuit
    # Attribution may take a part of the other way with it: it gets the first one by hand.
    left = [
        f"blocks.0.mlp_in:{two_ways.LEFT}", "blocks.0.mlp_post:0",
        f"blocks.0.mlp_out:{two_ways.OUT_LEFT}", f"final_resid:{two_ways.OUT_LEFT}",
    ]  # fmt: skip
    if isinstance(method, AttributionPatching):
        first = Circuit.from_node_names(graph, left)
    ways = disjoint_circuits(method, bound, task, first, at_most=4)
    assert len(ways) == 2
    assert not set(ways[0].node_names()) & set(ways[1].node_names())
    validation = task.split("validation")
    for way in ways[1:]:
        loss = TaskLoss()(circuit_logits(bound, way, validation), validation)
        assert float(loss.mean()) <= 0.15
    assert len(disjoint_circuits(method, bound, task, first, at_most=0)) == 1


def test_the_planted_algorithm_has_one_way() -> None:
    problem = planted.problems()["sparse, channel, interchange"]
    bound = bind(problem.model, problem.graph, problem.ablation)
    method = NodePruning(k_coef=1e-2, n_steps=80)
    ways = disjoint_circuits(method, bound, planted.task(), problem.circuit, at_most=2)
    assert ways == (problem.circuit,)


def test_what_cannot_be_exhausted_is_refused_and_not_asked(tmp_path: Any) -> None:
    model, task = toy.model(), toy.task()
    graph = ChannelGraph.from_model(model)
    bound = toy.bound(graph, model)
    edges = random_edge_circuit(graph, 0.5, seed=0)
    with pytest.raises(ValueError, match="such as NodePruning"):
        disjoint_circuits(AttributionPatching(edges=True), bound, task, edges)
    nodes: Any = random_node_circuit(graph, 0.5, seed=0)
    other: Any = Half()
    with pytest.raises(ValueError, match="got Half"):
        disjoint_circuits(other, bound, task, nodes)
    with pytest.raises(ValueError, match="disjoint must be 0 or more"):
        Families(disjoint=-1)
    (record,) = compare(
        [model], [task], {"half": Half()}, out=tmp_path, budgets=BUDGETS,
        questions=[Families(resamples=2)],
    )  # fmt: skip
    answers = record.answers["families"]
    assert answers.keys() == {"met_target", "core", "contingent", "noise", "core_share", "ious"}
    assert answers["met_target"] == 2
    assert len(answers["ious"]) == 3


def test_both_parts_are_asked_of_a_method_that_ranks_nodes(tmp_path: Any) -> None:
    (record,) = compare(
        [two_ways.model()], [two_ways.task()], {"pruning": PRUNING}, out=tmp_path,
        budgets=BUDGETS, questions=[Families(resamples=1, disjoint=3)],
        ablation=MeanAblation(tokens=two_ways.task().train.clean),
    )  # fmt: skip
    assert record.status == "done", record.error
    answers = record.answers["families"]
    assert answers["disjoint"] == len(answers["disjoint_nodes"]) == 2
    assert answers["exhausted"] is True
    assert answers["disjoint_nodes"][0] == record.chosen.n_nodes
