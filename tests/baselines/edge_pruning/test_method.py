"""What edge pruning finds, and what it refuses."""

from typing import Any

import pytest

from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.circuit import Circuit
from tests import planted
from tests.baselines.edge_pruning.problems import discover
from tests.patching.test_context import state

PLANTED = [
    "dense, component, interchange",
    "dense, component, mean",
    "sparse, channel, interchange",
]


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("writers", [False, True])
def test_the_planted_circuit_is_found_exactly_and_the_multipliers_reach_the_target(
    name: str, writers: bool
) -> None:
    problem = planted.problems()[name]
    edges = Circuit.from_edge_names(problem.graph, problem.circuit.edge_names())
    target = 1 - edges.n_edges / problem.graph.n_edges
    method = EdgePruning(
        target_sparsity=target, n_steps=150, learning_rate=0.3, writer_gates=writers
    )
    before = state(problem.model)
    found = method.discover(problem.model, problem.graph, planted.task(), ablation=problem.ablation)
    assert state(problem.model) == before
    assert found.at(n_edges=edges.n_edges) == edges
    assert found.circuit == edges
    last = found.history[-10:]
    assert all(row["target"] == target for row in last)
    assert sum(row["sparsity"] for row in last) / 10 == pytest.approx(target, abs=0.005)


def test_without_validation_prompts_there_are_scores_and_no_choice() -> None:
    found = discover("component")
    assert found.chosen is None
    assert found.at(n_edges=5).n_edges == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "n_steps must be at least 1, got 0"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 1"),
        ({"target_sparsity": 1.0}, "target_sparsity must lie in"),
        ({"target_warmup_fraction": 1.5}, "target_warmup_fraction must lie in"),
        ({"warmup_fraction": -0.1}, "warmup_fraction must lie in"),
        ({"initial_spread": -1.0}, "initial_spread must not be negative"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgePruning(**settings)
