"""Attribution ranks what was planted first, and its scores are mean effects."""

import pytest
import torch

from sparse_lens.baselines import AttributionPatching
from sparse_lens.circuit import Circuit
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference
from sparse_lens.patching import full_logits, run_circuit
from sparse_lens.scores import Scores
from sparse_lens.task import Task
from tests import planted
from tests.planted import Problem

TRAIN_ALONE = Task("differ", train=planted.task().train)


def scores_of(problem: Problem, method: AttributionPatching, task: Task = TRAIN_ALONE) -> Scores:
    return method.discover(problem.model, problem.graph, task, ablation=problem.ablation).scores


@pytest.mark.parametrize("name", planted.problems())
def test_planted_edges_and_nodes_come_first(name: str) -> None:
    problem = planted.problems()[name]
    found = AttributionPatching().discover(
        problem.model, problem.graph, planted.task(), ablation=problem.ablation
    )
    if problem.circuit.is_node_circuit:
        assert found.at(n_nodes=len(problem.names)) == problem.circuit
    else:
        assert found.at(n_edges=len(problem.names)) == problem.circuit
    assert found.circuit == problem.circuit


def test_scores_of_edges_into_the_logits_are_measured_effects() -> None:
    """Without a norm the logits are linear in what reaches them, so first order is all there is."""
    problem, prompts = planted.problems()["dense, component, mean"], TRAIN_ALONE.train
    scores = scores_of(problem, AttributionPatching(objective=NegatedLogitDifference())).by_name()
    full, objective = Circuit.full(problem.graph), NegatedLogitDifference()
    before = objective(full_logits(problem.model, prompts), prompts)
    into_logits = [name for name in scores if name.endswith("->logits")]
    assert len(into_logits) == 11
    for name in into_logits:
        names = [other for other in full.edge_names() if other != name]
        circuit = Circuit.from_edge_names(problem.graph, names)
        with torch.no_grad():
            logits = run_circuit(problem.model, circuit, prompts, ablation=problem.ablation)
        effect = float((objective(logits[:, -1], prompts) - before).mean())
        assert scores[name] == pytest.approx(effect, abs=1e-5)


@pytest.mark.parametrize("name", ["dense, component, interchange", "sparse, channel, mean"])
def test_scores_are_means_over_prompts(name: str) -> None:
    """Neither the size of the batches nor prompts that come twice change them."""
    problem, prompts = planted.problems()[name], TRAIN_ALONE.train
    twice = Task("twice", train=prompts[torch.arange(2 * len(prompts)) % len(prompts)])
    expected = scores_of(problem, AttributionPatching()).by_name()
    for method, task in (
        (AttributionPatching(batch_size=7), TRAIN_ALONE),
        (AttributionPatching(batch_size=1000), twice),
    ):
        got = scores_of(problem, method, task).by_name()
        assert got == pytest.approx(expected, abs=1e-6, rel=1e-4)


def test_a_node_counts_with_all_its_edges() -> None:
    problem = planted.problems()["dense, component, mean"]
    edges = scores_of(problem, AttributionPatching()).by_name()
    nodes = scores_of(problem, AttributionPatching(nodes=True)).by_name()
    assert nodes.pop("input") == nodes.pop("logits") == torch.inf  # these always stay
    for node, score in nodes.items():
        outgoing = [edges[name] for name in edges if name.startswith(f"{node}->")]
        assert score == pytest.approx(sum(outgoing), abs=1e-6, rel=1e-4)


def test_nodes_of_a_component_graph_are_found() -> None:
    problem = planted.problems()["dense, component, interchange"]
    found = AttributionPatching(nodes=True).discover(
        problem.model, problem.graph, planted.task(), ablation=problem.ablation
    )
    assert found.circuit == problem.node_circuit


def test_divergence_from_the_full_model_has_no_slope_at_the_full_model() -> None:
    """The full model is the minimum of this objective, so all first-order effects vanish."""
    problem = planted.problems()["dense, component, interchange"]
    method = AttributionPatching(objective=KLDivergence())
    with pytest.warns(UserWarning, match="KLDivergence has no slope at the full model"):
        edges = scores_of(problem, method).by_name()
    assert max(map(abs, edges.values())) < 1e-5


def test_passes_are_counted() -> None:
    """A batch takes a pass for the ablated values, and one forward and backward."""
    problem = planted.problems()["dense, component, interchange"]
    n = len(TRAIN_ALONE.train)
    for size, batches in ((n, 1), (n - 1, 2), (8, n // 8)):
        cost = (
            AttributionPatching(batch_size=size)
            .discover(problem.model, problem.graph, TRAIN_ALONE, ablation=problem.ablation)
            .cost
        )
        assert (cost.forward_passes, cost.backward_passes) == (2 * batches, batches)


def test_without_validation_prompts_there_are_scores_but_no_chosen_circuit() -> None:
    problem = planted.problems()["dense, component, interchange"]
    found = AttributionPatching().discover(
        problem.model, problem.graph, TRAIN_ALONE, ablation=problem.ablation
    )
    assert found.chosen is None
    assert found.at(n_edges=7) == problem.circuit
    with pytest.raises(ValueError, match="no validation split"):
        _ = found.circuit


def test_batches_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        AttributionPatching(batch_size=0)
