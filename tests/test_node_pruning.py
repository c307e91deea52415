"""Node pruning finds exactly what was planted, and says how it went."""

import math
from typing import Any

import pytest
import torch

from sparse_lens.ablation import ZeroAblation
from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.calibration import fit_calibration
from sparse_lens.circuit import Circuit
from sparse_lens.cost import metered
from sparse_lens.discovery import Discovery
from sparse_lens.graphs import ChannelGraph
from sparse_lens.method import Method
from sparse_lens.node_price import NodePrice
from sparse_lens.node_pruning import NodePruning, StraightThrough
from sparse_lens.node_pruning_search import NodePruningSearch
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference, TaskLoss
from sparse_lens.patching import answer_logits, bind, circuit_logits, patched
from sparse_lens.task import Task
from tests import planted
from tests.patching import tiny
from tests.planted import Problem

# Few large steps, and a price of a node that lies between what a planted one and noise are worth.
QUICK: dict[str, Any] = {"n_steps": 40, "learning_rate": 0.05, "k_coef": 0.01}
BRIEF: dict[str, Any] = QUICK | {"n_steps": 3}


def discover(problem: Problem, *, seed: int = 0, **settings: Any) -> Discovery:
    return NodePruning(**settings).discover(
        problem.model, problem.graph, planted.task(), ablation=problem.ablation, seed=seed
    )


@pytest.mark.parametrize("name", planted.problems())
def test_exactly_the_planted_circuit_is_found(name: str) -> None:
    problem = planted.problems()[name]
    found = discover(problem, **QUICK)
    assert found.circuit == problem.node_circuit
    assert found.chosen is not None
    assert found.chosen.loss < 0.05
    if problem.circuit.is_node_circuit:  # the gates alone say as much
        assert found.history[-1]["kept"] == problem.circuit.n_nodes


def test_other_objectives() -> None:
    problem = planted.problems()["sparse, component, mean"]
    found = discover(problem, objective=NegatedLogitDifference(), **QUICK)
    assert found.circuit == problem.node_circuit


def test_an_objective_that_compares_with_the_full_model() -> None:
    """At first all gates are open, and the divergence is one of the full model from itself."""
    problem = planted.problems()["sparse, component, mean"]
    found = discover(problem, objective=KLDivergence(), **BRIEF)
    assert found.history[0]["objective"] == pytest.approx(0, abs=1e-6)
    assert found.history[-1]["objective"] > 1e-3


def test_norm_scales_can_be_those_of_the_full_model() -> None:
    model, prompts = tiny.sparse("plain"), tiny.prompts(n=4)
    graph = ChannelGraph.from_model(model)
    noise = torch.randn(graph.n_nodes, generator=torch.Generator().manual_seed(3))
    circuit = Circuit.from_node_masks(graph, graph.unflatten(noise >= 0))
    first = {}
    for frozen in (False, True):
        method = NodePruning(
            n_steps=1, init_noise_bias=0.0, init_noise_scale=0.1, freeze_norm_scales=frozen
        )
        found = method.discover(
            model, graph, Task("t", train=prompts), ablation=ZeroAblation(), seed=3
        )
        first[frozen] = found.history[0]["objective"]
        with patched(
            model, circuit, ablation=ZeroAblation(), prompts=prompts, freeze_norm_scales=frozen
        ):
            expected = TaskLoss()(answer_logits(model, prompts), prompts).mean().item()
        assert first[frozen] == pytest.approx(expected, rel=1e-5)
    assert abs(first[True] - first[False]) > 1e-3


def test_embedding_and_logits_of_a_component_graph_always_stay() -> None:
    problem = planted.problems()["dense, component, mean"]
    found = discover(problem, **BRIEF)
    assert found.at(n_nodes=2).node_names() == ["input", "logits"]


def test_the_history_has_a_row_a_step() -> None:
    problem = planted.problems()["dense, component, mean"]
    n_train = len(planted.task().train)
    found = discover(problem, **QUICK | {"n_steps": 7, "batch_size": n_train})
    assert [row["step"] for row in found.history] == list(range(7))
    full = Circuit.full(problem.graph)
    bound = bind(problem.model, problem.graph, problem.ablation)
    train = planted.task().train
    start = NodePruning().objective(circuit_logits(bound, full, train), train).mean()
    # All gates are open at first, and one batch takes all prompts.
    assert found.history[0]["objective"] == pytest.approx(float(start), rel=1e-3)


def test_backward_passes_are_steps() -> None:
    assert discover(planted.problems()["dense, component, mean"], **BRIEF).cost.backward_passes == 3


def test_gates_start_in_the_order_of_a_warm_start() -> None:
    problem = planted.problems()["sparse, channel, mean"]
    first = AttributionPatching()
    places = first.discover(
        problem.model, problem.graph, planted.task(), ablation=problem.ablation
    ).scores.by_name()
    order = sorted(places, key=lambda name: abs(places[name]))
    settings: dict[str, Any] = BRIEF | {"n_steps": 1, "learning_rate": 0.0, "init_noise_scale": 0.0}
    gates = discover(problem, warm_start=first, **settings).scores.by_name()
    started = [gates[name] for name in order]
    assert started == sorted(started)
    assert started[0] == pytest.approx(0.0, abs=1e-3), "the bias less the whole scale"
    assert started[-1] == pytest.approx(0.2, abs=1e-3), "the bias and the whole scale"


@pytest.mark.parametrize(
    "first",
    [
        AttributionPatching(),
        NodePruningSearch(base=NodePruning(n_steps=3), n_trials=1),
    ],
    ids=["a ranking", "a search"],
)
def test_a_warm_start_is_paid_for(first: Method) -> None:
    problem = planted.problems()["sparse, channel, mean"]
    alone = discover(problem, **BRIEF).cost
    both = discover(problem, warm_start=first, **BRIEF).cost
    task = planted.task()
    if isinstance(first, AttributionPatching):
        task = Task(task.name, train=task.train)  # nothing to choose a circuit on
    paid = first.discover(problem.model, problem.graph, task, ablation=problem.ablation).cost
    assert both.backward_passes - alone.backward_passes == paid.backward_passes > 0
    ranking = both.forward_passes - paid.forward_passes
    assert 0 < ranking <= alone.forward_passes


def test_a_warm_start_must_score_nodes() -> None:
    problem = planted.problems()["sparse, channel, mean"]
    with pytest.raises(ValueError, match="warm_start must score nodes"):
        discover(problem, warm_start=AttributionPatching(edges=True), **BRIEF)


def test_another_seed_draws_other_gates() -> None:
    problem = planted.problems()["sparse, channel, mean"]
    one, other = (discover(problem, seed=seed, **BRIEF).scores.by_name() for seed in (0, 1))
    assert all(one[name] != other[name] for name in one)


def test_the_seed_draws_batches_too() -> None:
    problem = planted.problems()["dense, component, mean"]
    settings: dict[str, Any] = BRIEF | {"batch_size": 8, "init_noise_scale": 0.0}
    one, again, other = (discover(problem, seed=seed, **settings) for seed in (0, 0, 1))
    assert one.history == again.history
    assert one.history[0]["objective"] != other.history[0]["objective"]


def test_calibration_is_fitted_on_the_train_prompts() -> None:
    problem = planted.problems()["dense, component, mean"]
    found = discover(problem, calibrate=True, **BRIEF)
    assert found.chosen is not None
    bound, task = bind(problem.model, problem.graph, problem.ablation), planted.task()
    calibration = fit_calibration(circuit_logits(bound, found.circuit, task.train), task.train)
    assert found.chosen.calibration == calibration
    validation = task.split("validation")
    loss = calibration.loss(circuit_logits(bound, found.circuit, validation), validation)
    assert found.chosen.loss == pytest.approx(float(loss.mean()), rel=1e-4)


def test_without_validation_prompts_nodes_are_ranked_and_none_chosen() -> None:
    problem = planted.problems()["dense, component, mean"]
    train_only = Task("t", train=planted.task().train)
    method = NodePruning(n_steps=5)
    found, usual = (
        method.discover(problem.model, problem.graph, task, ablation=problem.ablation)
        for task in (train_only, planted.task())
    )
    assert found.chosen is None
    assert found.at(n_nodes=3) == usual.at(n_nodes=3)
    with pytest.raises(ValueError, match=r"no validation split.*Task\(\.\.\., validation="):
        _ = found.circuit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "n_steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"k_coef": ()}, "k_coef must be a number or several, got none"),
        ({"hold_loss": 0.0}, "both to be positive, got .* hold_loss=0.0"),
        ({"hold_loss": 0.1, "k_coef": (0.1, 0.0)}, r"both to be positive, got k_coef=\(0.1, 0.0\)"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodePruning(**settings)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_gates_step_forward_and_slope_backward(temperature: float) -> None:
    tau = torch.tensor([-1.0, -0.2, -1e-6, 0.0, 1e-6, 0.3, 1.0], requires_grad=True)
    gates: Any = StraightThrough.apply(tau, temperature)
    assert gates.tolist() == [0, 0, 0, 1, 1, 1, 1]
    upstream = torch.linspace(1, 2, 7)
    (got,) = torch.autograd.grad((gates * upstream).sum(), tau)
    smooth = tau.detach().requires_grad_()
    (slope,) = torch.autograd.grad(((smooth / temperature).sigmoid() * upstream).sum(), smooth)
    torch.testing.assert_close(got, slope)


def test_of_several_prices_the_run_with_the_smallest_circuit_counts() -> None:
    """All runs start alike and see the same batches; the history and the cost are of all."""
    problem = planted.problems()["sparse, channel, mean"]
    settings: dict[str, Any] = BRIEF | {"batch_size": 8, "removal_passes": 0}
    prices = (1e-3, 1e-2, 1e-1)
    alone = {k: discover(problem, **{**settings, "k_coef": k}) for k in prices}
    sizes = {k: (found.circuit.n_edges, found.circuit.n_nodes) for k, found in alone.items()}
    assert len(set(sizes.values())) > 1
    for order in (prices, prices[::-1]):
        best = min(order, key=sizes.__getitem__)
        found = discover(problem, **{**settings, "k_coef": order})
        assert found.circuit == alone[best].circuit
        assert found.scores.by_name() == alone[best].scores.by_name()
        assert found.history == tuple(row for k in order for row in alone[k].history)
        assert [row["k_coef"] for row in found.history] == [k for k in order for _ in range(3)]
        assert found.cost.backward_passes == 9
        bound_once = 2 * passes_to_bind(problem)
        alone_passes = sum(each.cost.forward_passes for each in alone.values())
        assert found.cost.forward_passes == alone_passes - bound_once


def passes_to_bind(problem: Problem) -> int:
    """Forward passes that the means take."""
    with metered(problem.model) as meter:
        bind(problem.model, problem.graph, problem.ablation)
        return meter.forward_passes


def test_several_prices_without_validation_prompts() -> None:
    problem = planted.problems()["sparse, channel, mean"]
    train = planted.task().train
    settings: dict[str, Any] = BRIEF | {"k_coef": (1e-3, 1e-1)}
    unchosen, chosen = (
        NodePruning(**settings).discover(
            problem.model, problem.graph, task, ablation=problem.ablation
        )
        for task in (Task("t", train=train), Task("t", train=train, validation=train))
    )
    assert unchosen.chosen is None
    assert unchosen.scores.by_name() == chosen.scores.by_name()


def test_what_the_ranking_leaves_in_is_removed() -> None:
    """Gates that have learned nothing rank the planted nodes anywhere."""
    problem = planted.problems()["sparse, channel, mean"]
    settings: dict[str, Any] = BRIEF | {"learning_rate": 0.0}
    rough, refined, by_edges = (
        discover(problem, **settings | more)
        for more in ({"removal_passes": 0}, {}, {"remove_edges": True})
    )
    assert refined.scores.by_name() == rough.scores.by_name()
    assert rough.circuit.n_nodes > problem.circuit.n_nodes
    assert refined.circuit == problem.circuit
    assert refined.cost.forward_passes > rough.cost.forward_passes
    assert not by_edges.circuit.is_node_circuit
    assert by_edges.circuit.n_edges < refined.circuit.n_edges


def test_a_collapsed_run_says_so() -> None:
    """A node costs more than the whole task."""
    problem = planted.problems()["sparse, channel, mean"]
    good = discover(problem, **QUICK)
    assert good.warnings == ()
    settings: dict[str, Any] = QUICK | {"k_coef": (0.01, 100.0)}
    found = discover(problem, **settings)
    (warning,) = found.warnings
    assert warning.startswith("k_coef=100: the run collapsed. The gates that it left open have a")
    assert found.circuit == good.circuit


def test_an_unfinished_run_says_so() -> None:
    problem = planted.problems()["sparse, channel, mean"]
    (warning,) = discover(problem, **QUICK | {"n_steps": 1}).warnings
    n = problem.graph.n_nodes
    assert warning.startswith(f"k_coef=0.01: the run is unfinished. {n} gates are neither")


def test_gates_that_are_never_learned_leave_no_run_unfinished() -> None:
    """Those of the embedding and the logits end where they started, near zero."""
    problem = planted.problems()["sparse, component, mean"]
    (warning,) = discover(problem, **QUICK | {"n_steps": 1}).warnings
    n_fixed = sum(problem.graph.sites[site].width for site in problem.graph.fixed_sites)
    assert n_fixed == 2
    assert f"unfinished. {problem.graph.n_nodes - n_fixed} gates are neither" in warning


def test_the_price_follows_the_loss_that_is_to_be_held() -> None:
    """From far too low and far too high a price, where a fixed one keeps all or nothing."""
    problem = planted.problems()["sparse, channel, mean"]
    for k_coef, rises in ((1e-5, True), (3.0, False)):
        settings: dict[str, Any] = QUICK | {"k_coef": k_coef, "n_steps": 10, "removal_passes": 0}
        prices = [row["k_coef"] for row in discover(problem, hold_loss=0.1, **settings).history]
        assert prices[0] == k_coef
        assert (prices[-1] > k_coef) == rises
        fixed = [row["k_coef"] for row in discover(problem, **settings).history]
        assert fixed == [k_coef] * 10


def test_the_price_moves_by_the_running_mean() -> None:
    price = NodePrice(1.0, hold=0.1)
    price.follow(0.1)
    assert price.k_coef == pytest.approx(1.0)
    price.follow(0.6)  # a mean of 0.9 * 0.1 + 0.1 * 0.6, half as much again as 0.1
    assert math.log(price.k_coef) == pytest.approx(-0.02 * 0.5)
    price.follow(100.0)
    assert math.log(price.k_coef) == pytest.approx(-0.02 * 1.5), "one step is bounded"
