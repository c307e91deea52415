"""Any method's circuit, without what it can do without."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from sparse_lens.baselines import AttributionPatching, EdgePruning
from sparse_lens.discovery import Discovery
from sparse_lens.method import Method
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import NegatedLogitDifference, Objective, TaskLoss
from sparse_lens.refined import Refined
from sparse_lens.target import Target
from sparse_lens.task import Task
from tests import planted
from tests.patching.test_context import state


def discover(method: Method, name: str, task: Task | None = None) -> Discovery:
    problem = planted.problems()[name]
    return method.discover(
        problem.model, problem.graph, task or planted.task(), ablation=problem.ablation
    )


@dataclass(frozen=True)
class WithoutTarget(Method):
    """A method of another package, which ranks and knows no target."""

    objective: Objective = TaskLoss()

    def discover(self, *arguments: Any, **options: Any) -> Discovery:
        found = AttributionPatching(nodes=True).discover(*arguments, **options)
        return replace(found, method=self, chosen=None)


@pytest.mark.parametrize("name", ["sparse, channel, interchange", "dense, component, mean"])
@pytest.mark.parametrize("inner", [AttributionPatching(nodes=True), WithoutTarget()])
def test_the_planted_nodes_are_left_at_the_cost_of_both(name: str, inner: Method) -> None:
    problem = planted.problems()[name]
    before = state(problem.model)
    found = discover(Refined(method=inner), name)
    assert state(problem.model) == before
    assert found.circuit == problem.node_circuit
    assert found.method == Refined(method=inner)
    alone = discover(inner, name)
    assert found.scores.by_name() == alone.scores.by_name()
    assert found.cost.forward_passes > alone.cost.forward_passes


def test_an_edge_circuit_loses_edges() -> None:
    name = "dense, component, interchange"
    inner = EdgePruning(target_sparsity=0.5, n_steps=2)
    nodes, edges = (discover(Refined(method=inner, edges=e), name) for e in (False, True))
    assert edges.circuit == planted.problems()[name].circuit
    assert not nodes.circuit.is_node_circuit
    assert nodes.circuit.n_edges >= edges.circuit.n_edges
    assert edges.cost.backward_passes == 2


def test_objective_and_target_are_the_method_s_to_keep() -> None:
    """The objective is the method's own unless another is given; the target is one for both."""
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Watched(AttributionPatching):
        def discover(self, *arguments: Any, **options: Any) -> Discovery:
            seen.append((self.objective, self.target))
            return super().discover(*arguments, **options)

    inner = Watched(objective=NegatedLogitDifference(), target=Target(9.0))
    name = "dense, component, interchange"
    discover(Refined(method=inner, target=Target(margin=0.5)), name)
    found = discover(Refined(TaskLoss(), inner, target=Target(0.3)), name)
    assert seen == [(NegatedLogitDifference(), Target(margin=0.5)), (TaskLoss(), Target(0.3))]
    assert found.chosen is not None
    assert found.chosen.loss <= 0.3


def test_warnings_are_those_of_the_method() -> None:
    inner = NodePruning(n_steps=1, k_coef=0.01)
    found = discover(Refined(method=inner), "dense, component, mean")
    assert found.warnings == discover(inner, "dense, component, mean").warnings != ()


def test_validation_prompts_are_needed() -> None:
    task = Task("t", train=planted.task().train)
    with pytest.raises(ValueError, match="no validation split"):
        discover(Refined(), "dense, component, mean", task)


def test_passes_are_checked() -> None:
    with pytest.raises(ValueError, match="n_passes must be at least 1, got 0"):
        Refined(n_passes=0)
