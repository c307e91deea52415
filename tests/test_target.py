"""Targets and the conditions under which they hold, against slow versions and known circuits."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ResampleAblation
from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.circuit import Circuit
from sparse_lens.conditions import (
    CONDITIONS,
    Adversary,
    FrozenNormScales,
    OtherValues,
    OwnEdges,
    PartlyLive,
    Trial,
    masks_of,
    mean_loss,
)
from sparse_lens.cost import metered
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import KLDivergence, TaskLoss
from sparse_lens.parts import by_its_edges
from sparse_lens.patching import answer_logits, bind, circuit_logits, full_logits, patched
from sparse_lens.refinement import refined
from sparse_lens.search import ChosenCircuit, choose_circuit
from sparse_lens.target import FAITHFUL, PAPER, Target
from tests import planted
from tests.evals import toy_comparison as toy
from tests.graphs.tiny import random_edge_circuit, random_node_circuit
from tests.patching.test_context import state

PROMPTS = toy.prompts(6, 9)
GRAPHS = {"channel": ChannelGraph.from_model, "component": ComponentGraph.from_model}
KINDS = {"nodes": random_node_circuit, "edges": random_edge_circuit}
each_graph = pytest.mark.parametrize("graph_of", GRAPHS.values(), ids=GRAPHS)
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def two_way(bound: Any, circuit: Circuit, **options: Any) -> torch.Tensor:
    return TaskLoss()(circuit_logits(bound, circuit, PROMPTS, **options), PROMPTS)


@each_graph
@each_kind
def test_the_plain_target_is_the_two_way_loss(graph_of: Any, make: Any) -> None:
    model = toy.model()
    bound = bind(model, graph_of(model), MeanAblation())
    circuit = make(bound.graph, 0.5, seed=1)
    on_prompts = PAPER.bind(bound, PROMPTS)
    (row,) = on_prompts.losses(circuit)
    torch.testing.assert_close(row, two_way(bound, circuit))
    least = float(row.mean())
    assert Target(least + 1e-6).bind(bound, PROMPTS).met(circuit)
    assert not Target(least - 1e-6).bind(bound, PROMPTS).met(circuit)


@each_graph
def test_kl_is_a_share_of_the_empty_circuit_s(graph_of: Any) -> None:
    model = toy.model()
    bound = bind(model, graph_of(model), MeanAblation())
    circuit = random_node_circuit(bound.graph, 0.5, seed=2)
    full = full_logits(model, PROMPTS)

    def kl(c: Circuit) -> float:
        return float(KLDivergence()(circuit_logits(bound, c, PROMPTS), PROMPTS, full).mean())

    share = kl(circuit) / kl(Circuit.empty(bound.graph))
    for target in (
        Target(task_loss=None, kl=share * 1.001),
        Target(task_loss=99.0, kl=share * 1.001),
    ):
        assert target.bind(bound, PROMPTS).met(circuit)
    for target in (
        Target(task_loss=None, kl=share * 0.999),
        Target(task_loss=99.0, kl=share * 0.999),
    ):
        assert not target.bind(bound, PROMPTS).met(circuit)
    task, faithful = FAITHFUL.bind(bound, PROMPTS).losses(circuit).mean(1).tolist()
    assert task == pytest.approx(float(two_way(bound, circuit).mean()))
    assert faithful == pytest.approx(0.15 * share / 0.1)


@each_graph
@each_kind
def test_conditions_run_what_they_say(graph_of: Any, make: Any) -> None:
    model = toy.model()
    graph = graph_of(model)
    bound = bind(model, graph, MeanAblation())
    circuit = make(graph, 0.4, seed=3)
    conditions = (
        OtherValues(InterchangeAblation()),
        FrozenNormScales(),
        OwnEdges(),
        PartlyLive(share=0.3, draws=2),
    )
    on_prompts = Target(1.0, under=conditions).bind(bound, PROMPTS, seed=5)
    rows = on_prompts.losses(circuit)
    strict = [two_way(bound, by_its_edges(circuit))] if circuit.is_node_circuit else []
    assert len(rows) == 5 + len(strict)
    torch.testing.assert_close(rows[0], two_way(bound, circuit))
    interchange = bind(model, graph, InterchangeAblation())
    torch.testing.assert_close(rows[1], two_way(interchange, circuit))
    torch.testing.assert_close(rows[2], two_way(bound, circuit, freeze_norm_scales=True))
    for row, expected in zip(rows[3:-2], strict, strict=True):
        torch.testing.assert_close(row, expected)
    for row, trial in zip(rows[-2:], on_prompts.trials(circuit)[-2:], strict=True):
        partly = trial.circuit(circuit)
        assert set(circuit.edge_names()) <= set(partly.edge_names())
        n = graph.n_nodes if circuit.is_node_circuit else graph.n_edges
        assert trial.live is not None
        assert trial.live.shape == (n,)
        assert n < 50 or 0.2 * n < int(trial.live.sum()) < 0.4 * n
        torch.testing.assert_close(row, two_way(bound, partly))
    again = Target(1.0, under=conditions).bind(bound, PROMPTS, seed=5).losses(circuit)
    assert again.equal(rows), "draws depend on the seed alone"
    other = Target(1.0, under=conditions).bind(bound, PROMPTS, seed=6).losses(circuit)
    assert not other[-2:].equal(rows[-2:])


@each_graph
def test_soft_masks_of_zeros_and_ones_run_by_their_edges_as_the_circuit_does(graph_of: Any) -> None:
    model = toy.model()
    bound = bind(model, graph_of(model), MeanAblation())
    circuit = random_node_circuit(bound.graph, 0.6, seed=3)
    trial = Trial(bound, own_edges_only=True)
    masks = trial.masks(masks_of(circuit, device=bound.device))
    with patched(model, masks, ablation=bound, prompts=PROMPTS):
        loss = TaskLoss()(answer_logits(model, PROMPTS), PROMPTS)
    torch.testing.assert_close(loss, two_way(bound, by_its_edges(circuit)))


def test_resampled_values_are_drawn_anew_for_each_trial() -> None:
    model = toy.model()
    bound = bind(model, ChannelGraph.from_model(model), MeanAblation())
    circuit = random_node_circuit(bound.graph, 0.4, seed=3)
    rows = Target(1.0, under=(OtherValues(draws=3),)).bind(bound, PROMPTS).losses(circuit)
    assert len({tuple(row.tolist()) for row in rows}) == 4
    drawn = [
        two_way(bind(model, bound.graph, ResampleAblation(seed)), circuit) for seed in range(20)
    ]
    lowest, highest = torch.stack(drawn).min(0).values, torch.stack(drawn).max(0).values
    assert bool(((rows[1:] >= lowest - 1e-5) & (rows[1:] <= highest + 1e-5)).float().mean() > 0.9)


@each_kind
def test_the_adversary_finds_what_random_subsets_do_not(make: Any) -> None:
    model = toy.model()
    bound = bind(model, ChannelGraph.from_model(model), MeanAblation())
    circuit = make(bound.graph, 0.3, seed=4)
    before = state(model)
    target = Target(1.0, under=(PartlyLive(draws=8), Adversary(steps=10, step_size=0.2)))
    means = target.bind(bound, PROMPTS).losses(circuit).mean(1).tolist()
    assert means[-1] > max(means[1:-1])
    assert state(model) == before


@pytest.mark.parametrize("name", ["sparse, channel, mean", "dense, component, mean"])
def test_a_circuit_that_is_all_that_matters_stands_every_condition(name: str) -> None:
    problem = planted.problems()[name]
    bound = bind(problem.model, problem.graph, problem.ablation)
    under = tuple(
        make() for make in CONDITIONS.values() if make is not FrozenNormScales or "sparse" in name
    )  # the dense one has no norms
    prompts = planted.task().split("held_out")
    robust = Target(0.15, under=under).bind(bound, prompts)
    assert robust.met(problem.circuit)
    assert not robust.met(problem.without(problem.names[3]))


@each_graph
def test_gradients_reach_masks_in_every_trial(graph_of: Any) -> None:
    model = toy.model()
    bound = bind(model, graph_of(model), MeanAblation())
    parts = torch.full((bound.graph.n_nodes,), 0.5, requires_grad=True)
    by_site = bound.graph.unflatten(parts)
    nodes = {site: by_site[site] for site in by_site if site not in bound.graph.fixed_sites}
    masks = Masks(bound.graph, nodes, {})

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return TaskLoss()(logits, PROMPTS)

    conditions = (FrozenNormScales(), PartlyLive(draws=1))
    total = mean_loss(
        conditions, bound, masks, PROMPTS, loss, generator=torch.Generator().manual_seed(0)
    )
    live = (torch.rand(len(parts), generator=torch.Generator().manual_seed(0)) < 0.5).float()
    means = []
    for alive, frozen_norms in ((0 * live, False), (0 * live, True), (live, False)):
        here = bound.graph.unflatten(parts + (1 - parts) * alive)
        soft = Masks(bound.graph, {site: here[site] for site in nodes}, {})
        with patched(model, soft, ablation=bound, prompts=PROMPTS, freeze_norm_scales=frozen_norms):
            means.append(loss(answer_logits(model, PROMPTS)).mean())
    expected = torch.stack(means).mean()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, parts)[0] for x in (total, expected)))


@pytest.mark.parametrize(
    "method",
    [
        NodePruning(n_steps=40, k_coef=0.01, learning_rate=0.05),
        EdgePruning(TaskLoss(), n_steps=20, batch_size=8),
    ],
    ids=["nodes", "edges"],
)
def test_what_is_learned_under_conditions_meets_them(method: Any) -> None:
    problem = planted.problems()["dense, component, mean"]
    target = Target(0.15, under=(OtherValues(), PartlyLive(draws=2)))
    options: Any = {"ablation": problem.ablation, "seed": 1}
    task = planted.task()
    robust, again = (
        replace(method, target=target).discover(problem.model, problem.graph, task, **options)
        for _ in range(2)
    )
    assert robust.chosen is not None
    assert robust.chosen.met_target
    assert again.chosen is not None
    assert again.chosen.circuit == robust.chosen.circuit
    bound = bind(problem.model, problem.graph, problem.ablation)
    assert target.bind(bound, task.split("validation")).met(robust.chosen.circuit)
    plain = method.discover(problem.model, problem.graph, task, **options)
    assert plain.history != robust.history


def test_removal_keeps_what_the_target_asks_under_conditions() -> None:
    """Without conditions more goes; with them, what is left stands a new draw of the adversary."""
    problem = planted.problems()["sparse, channel, mean"]
    bound, task = bind(problem.model, problem.graph, problem.ablation), planted.task()
    full = Circuit.full(problem.graph)
    met = ChosenCircuit(full, loss=0.1, met_target=True, tried=())
    target = Target(0.15, under=(OtherValues(), PartlyLive(draws=2), Adversary()))
    with metered(problem.model) as meter:
        found = refined(bound, met, task, target=target, meter=meter)
        plain = refined(bound, met, task, target=PAPER, meter=meter)
    for name in ("train", "validation"):
        assert target.bind(bound, task.split(name)).met(found.circuit)
    assert plain.circuit.n_nodes <= found.circuit.n_nodes < problem.graph.n_nodes


def test_the_search_takes_the_smallest_that_meets_all() -> None:
    problem = planted.problems()["sparse, channel, mean"]
    bound, task = bind(problem.model, problem.graph, problem.ablation), planted.task()
    method = NodePruning(n_steps=40, k_coef=0.01, learning_rate=0.05, removal_passes=0)
    scores = method.discover(
        problem.model, problem.graph, task, ablation=problem.ablation, seed=0
    ).scores
    target = Target(0.15, under=(FrozenNormScales(), PartlyLive(draws=2)), margin=0.0)
    chosen = choose_circuit(bound, scores, task, target=target)
    on_validation = target.bind(bound, task.split("validation"))
    meets = [
        n for n in range(problem.graph.n_nodes + 1) if on_validation.met(scores.top(n_nodes=n))
    ]
    assert chosen.circuit.n_nodes in meets
    assert chosen.circuit.n_nodes <= 2 * min(meets), "the search is no exhaustive one"
    assert chosen.loss == pytest.approx(max(on_validation.losses(chosen.circuit).mean(1).tolist()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_loss": None}, "a target bounds a loss"),
        ({"task_loss": -0.1}, "task_loss of a target must be positive and finite, got -0.1"),
        ({"task_loss": "0.1"}, "task_loss of a target must be a number, got '0.1'"),
        ({"kl": math.nan}, "kl of a target must be positive and finite, got nan"),
        ({"margin": -1.0}, "margin of a target must be 0 or more, got -1.0"),
        ({"under": (MeanAblation(),)}, "under= takes conditions such as"),
    ],
)
def test_bad_targets_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Target(**fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PartlyLive(share=1.0), "share must lie between 0 and 1, got 1.0"),
        (lambda: PartlyLive(draws=0), "draws must be 1 or more, got 0"),
        (lambda: OtherValues(draws=0), "draws must be 1 or more, got 0"),
        (lambda: Adversary(steps=0), "steps must be 1 or more, got 0"),
        (lambda: Adversary(step_size=0.0), "step_size must be positive, got 0.0"),
    ],
)
def test_bad_conditions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_in_words() -> None:
    assert str(PAPER) == "task loss 0.15"
    assert str(FAITHFUL) == "task loss 0.15, KL 0.1 of the empty circuit's"
    target = Target(0.2, under=(OtherValues(), Adversary(steps=20)))
    assert str(target) == "task loss 0.2, under other prompts' values, an adversary (steps=20)"
