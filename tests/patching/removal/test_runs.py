"""Runs that share what did not change give the logits of the hooked model."""

from typing import Any

import pytest
import torch

from sparse_lens.ablation import (
    Ablation,
    InterchangeAblation,
    MeanAblation,
    ResampleAblation,
    ZeroAblation,
)
from sparse_lens.circuit import Circuit
from sparse_lens.cost import metered
from sparse_lens.graphs import ChannelGraph, Graph
from sparse_lens.patching import bind, circuit_logits, patched
from sparse_lens.patching.removal.kept import Kept
from sparse_lens.patching.removal.lazy import Steps
from sparse_lens.patching.removal.runs import StepwiseRuns, WholeRuns, circuit_runs
from tests import planted
from tests.patching import tiny

ABLATIONS: dict[str, Ablation] = {
    "zero": ZeroAblation(),
    "mean": MeanAblation(tokens=tiny.prompts(n=3).corrupted),
    "mean per position": MeanAblation(tokens=tiny.prompts(n=3).corrupted, per_position=True),
    "interchange": InterchangeAblation(),
    "resample": ResampleAblation(),
}
SPARSE = [name for make, name in tiny.CHANNEL_MODELS if make is tiny.sparse]


def random_circuits(graph: Graph, generator: torch.Generator, n: int) -> list[Circuit]:
    """Circuits that lose ever more nodes, and then, in the last half, edges."""
    draws = torch.rand(graph.n_nodes, generator=generator)
    circuits = []
    for i in range(n):
        circuits.append(Circuit.from_node_masks(graph, graph.unflatten(draws > i / n)))
    edge_draws = torch.rand(graph.n_edges, generator=generator)
    for i in range(n):
        kept = graph.unflatten_edges(edge_draws > i / n)
        nodes = graph.unflatten(draws > i / n)
        circuits.append(Circuit.from_edge_masks(graph, kept, node_masks=nodes))
    return circuits


@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=ABLATIONS)
@pytest.mark.parametrize("name", SPARSE)
def test_shared_steps_give_the_logits_of_the_hooked_model(name: str, ablation: Ablation) -> None:
    model, prompts = tiny.sparse(name, dtype=torch.float64), tiny.prompts(n=3)
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, ablation)
    runs = circuit_runs(bound, prompts)
    assert isinstance(runs, StepwiseRuns)
    for i, circuit in enumerate(random_circuits(graph, torch.Generator().manual_seed(0), 5)):
        expected = circuit_logits(bound, circuit, prompts)
        for _ in range(2):  # from another base, and from itself
            torch.testing.assert_close(
                runs.logits(Kept.of(circuit)), expected, rtol=0, atol=tiny.TOLERANCE
            )
            if i % 2:
                runs.rebase(Kept.of(circuit))


@pytest.mark.parametrize("name", SPARSE)
def test_a_circuit_that_keeps_nothing_has_a_row_for_every_prompt(name: str) -> None:
    """Also where all carry the same."""
    model, prompts = tiny.sparse(name, dtype=torch.float64), tiny.prompts(n=3)
    graph = ChannelGraph.from_model(model)
    bound, nothing = bind(model, graph, ABLATIONS["mean"]), Circuit.empty(graph)
    logits = circuit_runs(bound, prompts).logits(Kept.of(nothing))
    expected = circuit_logits(bound, nothing, prompts)
    assert logits.shape == expected.shape
    torch.testing.assert_close(logits, expected, rtol=0, atol=tiny.TOLERANCE)


def test_other_models_run_whole() -> None:
    for name in ("dense, channel, mean", "sparse, component, mean"):
        problem = planted.problems()[name]
        bound = bind(problem.model, problem.graph, problem.ablation)
        prompts = planted.task().train
        runs = circuit_runs(bound, prompts)
        assert isinstance(runs, WholeRuns)
        got = runs.logits(Kept.of(problem.circuit))
        torch.testing.assert_close(got, circuit_logits(bound, problem.circuit, prompts))
        assert Kept.of(problem.circuit).circuit() == problem.circuit


def test_whole_runs_compute_ablated_values_once() -> None:
    problem = planted.problems()["dense, component, interchange"]
    bound = bind(problem.model, problem.graph, problem.ablation)
    with metered(problem.model) as meter:
        runs = circuit_runs(bound, planted.task().train)
        for circuit in (problem.circuit, Circuit.empty(problem.graph)):
            runs.logits(Kept.of(circuit))
    assert meter.forward_passes == 3


def test_hooks_of_others_are_not_passed_by() -> None:
    model, prompts = tiny.sparse("plain"), tiny.prompts(n=3)
    graph = ChannelGraph.from_model(model)
    model.add_perma_hook("blocks.0.hook_mlp_out", lambda tensor, hook: tensor * 2)
    bound = bind(model, graph, ZeroAblation())
    runs, circuit = circuit_runs(bound, prompts), Circuit.full(graph)
    got = runs.logits(Kept.of(circuit))
    torch.testing.assert_close(got, circuit_logits(bound, circuit, prompts))


def test_a_patch_that_is_active_does_not_act_on_the_runs() -> None:
    model, prompts = tiny.sparse("plain"), tiny.prompts(n=3)
    graph = ChannelGraph.from_model(model)
    bound, circuit = bind(model, graph, ZeroAblation()), Circuit.full(graph)
    expected = circuit_logits(bound, circuit, prompts)
    others: dict[str, Any] = {"prompts": tiny.prompts(n=3, seed=1), "freeze_norm_scales": True}
    with patched(model, Circuit.empty(graph), ablation=bound, **others):
        runs = circuit_runs(bound, prompts)
        assert isinstance(runs, StepwiseRuns)
        torch.testing.assert_close(runs.logits(Kept.of(circuit)), expected)


def test_a_step_runs_again_only_when_it_is_asked_for_and_changed() -> None:
    computed: list[str] = []

    def value(name: str, number: Any) -> Any:
        return lambda: computed.append(name) or torch.tensor(float(number()))

    def build(base: Steps | None, mask: torch.Tensor) -> tuple[Steps, Any]:
        steps = Steps(base)
        first = steps.add("first", value("first", lambda: 2))
        steps.add("unused", value("unused", lambda: 0), inputs=(first,))
        second = steps.add("second", value("second", lambda: mask.sum()), masks=(mask,))
        both = value("both", lambda: first.value + second.value)
        return steps, steps.add("both", both, inputs=(first, second))

    steps, both = build(None, torch.ones(3))
    assert both.value == 5
    assert computed == ["both", "first", "second"] or sorted(computed) == [
        "both",
        "first",
        "second",
    ]
    computed.clear()
    steps.finish()
    _, again = build(steps, torch.ones(3))
    assert again.value == 5
    assert computed == []
    _, other = build(steps, torch.zeros(3))
    assert other.value == 2
    assert sorted(computed) == ["both", "second"]
