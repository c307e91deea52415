"""The search for a size against everything that it measured, and circuits chosen with it."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation
from sparse_lens.calibration import Calibration
from sparse_lens.circuit import Circuit
from sparse_lens.cost import metered
from sparse_lens.objectives import TaskLoss
from sparse_lens.patching import bind, circuit_logits, run_circuit
from sparse_lens.scores import Scores
from sparse_lens.search import choose_circuit, smallest_size
from sparse_lens.target import Target, upper_bound
from sparse_lens.task import Prompts, Task
from tests import planted

Found = tuple[int, bool, tuple[tuple[int, float], ...]]


def noisy(largest: int, seed: int) -> Callable[[int], float]:
    """A loss that falls with size on the whole, and jumps up and down."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(largest + 1, generator=generator).tolist()
    return lambda size: (1 - size / max(1, largest)) ** 3 + 0.5 * noise[size]


def search(loss_at: Callable[[int], float], largest: int, target: float) -> Found:
    """The search, checked for measuring no size twice and none that does not exist."""
    asked: list[int] = []

    def once(size: int) -> float:
        asked.append(size)
        return loss_at(size)

    found = smallest_size(once, largest, target=target)
    assert len(set(asked)) == len(asked)
    assert set(asked) <= set(range(largest + 1))
    assert found[2] == tuple((size, loss_at(size)) for size in asked)
    return found


@pytest.mark.parametrize("largest", [0, 1, 2, 7, 100, 5000])
@pytest.mark.parametrize("target", [-1.0, 0.2, 0.5, 0.9, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_losses_that_jump(largest: int, target: float, seed: int) -> None:
    loss_at = noisy(largest, seed)
    size, met, tried = search(loss_at, largest, target)
    meeting = [tried_size for tried_size, loss in tried if loss <= target]
    assert met == bool(meeting)
    if not met:
        assert size == largest
        return
    assert loss_at(size) <= target
    assert size == min(meeting)
    # The gap is closed: the next smaller size was measured, and fails.
    assert size == 0 or loss_at(size - 1) > target
    assert size == 0 or size - 1 in dict(tried)


@pytest.mark.parametrize("largest", [1, 2, 3, 24, 25, 1000])
def test_losses_that_only_fall_give_the_smallest_size_of_all(largest: int) -> None:
    for needed in sorted({0, 1, largest // 3, largest - 1, largest}):
        size, met, _ = search(lambda size, needed=needed: float(size < needed), largest, 0.5)
        assert (size, met) == (needed, True)


def test_a_dip_that_bisection_walks_past_is_found() -> None:
    """Sizes 50 to 70 do, 71 to 899 do not: halving from the whole would settle at 900."""
    size, met, _ = search(lambda size: float(not (50 <= size <= 70 or size >= 900)), 1000, 0.5)
    assert (size, met) == (50, True)


def test_sizes_below_the_first_one_found_are_scanned() -> None:
    """As attribution's loss went: bisection from above ends at 437, and 245 would do."""
    meeting = {*range(230, 280), *range(430, 4417)}
    size, met, _ = search(lambda size: 0.1 if size in meeting else 0.16, 4416, 0.15)
    assert met
    assert size == 230


def test_near_misses_are_looked_at_first() -> None:
    """With sizes left for a part of the gaps, those whose ends nearly meet the target."""
    meeting = {*range(90, 96), *range(5000, 10001)}

    def found(near: range) -> int:
        def loss_at(size: int) -> float:
            return 0.1 if size in meeting else 0.2 if size in near else 1.0

        return smallest_size(loss_at, 10_000, target=0.15, n_sizes=33)[0]

    assert found(near=range(70, 160)) == 90
    assert found(near=range(700, 1600)) == 5000


def test_more_sizes_find_what_fewer_miss() -> None:
    def loss_at(size: int) -> float:
        return float(not (1000 <= size <= 1200 or size >= 5000))

    few, many = (smallest_size(loss_at, 10_000, target=0.5, n_sizes=n)[0] for n in (16, 60))
    assert (few, many) == (5000, 1000)


def test_a_target_that_nothing_meets() -> None:
    size, met, tried = search(lambda size: 1.0 / (1 + size), 100, 0.0)
    assert (size, met) == (100, False)
    assert len(tried) > 10  # smaller sizes were tried, since the full one need not be the best


def test_a_loss_that_is_not_a_number_meets_nothing() -> None:
    size, met, _ = smallest_size(lambda size: 0.1 if size >= 8 else math.nan, 20, target=0.5)
    assert (size, met) == (8, True)


def test_few_measurements_do_for_millions_of_sizes() -> None:
    calls: list[int] = []
    size, met, _ = smallest_size(
        lambda size: calls.append(size) or float(size < 123_457), 85_000_000, target=0.5
    )
    assert (size, met) == (123_457, True)
    assert len(calls) < 75


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="largest=-1"):
        smallest_size(lambda size: 0.0, -1, target=0.5)


COMPONENT = planted.problems()["dense, component, mean"]
CHANNEL = planted.problems()["sparse, channel, mean"]
TASK = planted.task()


def planted_first(problem: planted.Problem, *, sign: float = 1.0) -> Scores:
    """Scores under 1 for what is not planted, and `sign * 2` for what is."""
    graph = problem.graph
    generator = torch.Generator().manual_seed(0)
    if problem.circuit.is_node_circuit:
        noise = graph.unflatten(torch.rand(graph.n_nodes, generator=generator))
        kept = problem.circuit.node_masks
        nodes = {site: torch.where(kept[site], sign * 2, noise[site]) for site in graph.sites}
        return Scores(graph, nodes=nodes)
    edges = {}
    for block, shape in graph.block_shapes.items():
        noise = torch.rand(shape, generator=generator)
        edges[block] = torch.where(problem.circuit.edge_mask(block), sign * 2, noise)
    return Scores(graph, edges=edges)


@pytest.mark.parametrize("problem", [COMPONENT, CHANNEL], ids=["edges", "nodes"])
def test_the_smallest_circuit_that_does_is_chosen(problem: planted.Problem) -> None:
    bound = bind(problem.model, problem.graph, problem.ablation)
    chosen = choose_circuit(bound, planted_first(problem), TASK, target=Target(0.15))
    assert chosen.met_target
    assert chosen.circuit == problem.circuit
    assert chosen.calibration is None
    validation = TASK.split("validation")
    with torch.no_grad():
        logits = run_circuit(problem.model, problem.circuit, validation, ablation=problem.ablation)
    loss = float(TaskLoss()(logits[:, -1], validation).mean())
    assert chosen.loss == pytest.approx(loss, rel=1e-4)
    assert dict(chosen.tried)[len(problem.names)] == chosen.loss


def test_ablated_values_are_computed_once_for_all_sizes() -> None:
    problem = planted.problems()["dense, channel, interchange"]
    bound = bind(problem.model, problem.graph, problem.ablation)
    with metered(problem.model) as meter:
        chosen = choose_circuit(bound, planted_first(problem), TASK, target=Target(0.15))
    assert chosen.circuit == problem.circuit
    assert meter.forward_passes == len(chosen.tried) + 1


def test_a_margin_keeps_circuits_that_were_lucky_out() -> None:
    """The loss has to stay below the target by its standard error, unless none does."""
    bound = bind(CHANNEL.model, CHANNEL.graph, CHANNEL.ablation)
    scores, validation = planted_first(CHANNEL), TASK.split("validation")
    plain = choose_circuit(bound, scores, TASK, target=Target(0.15, margin=0.0))
    losses = TaskLoss()(circuit_logits(bound, plain.circuit, validation), validation)
    error = float(losses.std()) / len(losses) ** 0.5
    above = plain.loss + 0.9 * error
    assert (
        choose_circuit(bound, scores, TASK, target=Target(above, margin=0.0)).circuit
        == plain.circuit
    )
    careful = choose_circuit(bound, scores, TASK, target=Target(above, margin=1.0))
    assert careful.circuit != plain.circuit
    assert careful.met_target
    assert careful.loss <= above
    # What no circuit meets by the margin, one may meet without.
    least = min(loss for _, loss in careful.tried)
    barely = choose_circuit(bound, scores, TASK, target=Target(least + 1e-6, margin=50.0))
    assert barely.met_target
    assert barely.loss <= least + 1e-6


def test_the_bound_is_the_mean_and_standard_errors() -> None:
    losses = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert upper_bound(losses, 0.0) == 1.5
    assert upper_bound(losses, 2.0) == pytest.approx(1.5 + 2 * (5 / 3) ** 0.5 / 2)
    assert upper_bound(losses[:1], 2.0) == 0.0


def test_a_target_out_of_reach_gives_the_full_circuit_and_says_so() -> None:
    bound = bind(COMPONENT.model, COMPONENT.graph, COMPONENT.ablation)
    chosen = choose_circuit(bound, planted_first(COMPONENT), TASK, target=Target(1e-9))
    assert not chosen.met_target
    assert chosen.circuit == Circuit.full(COMPONENT.graph)
    assert chosen.loss == dict(chosen.tried)[COMPONENT.graph.n_edges] > 0


def test_ranking_by_sign_or_by_absolute_value() -> None:
    """Planted edges with negative scores are the best by absolute value and the last by sign."""
    bound = bind(COMPONENT.model, COMPONENT.graph, COMPONENT.ablation)
    scores = planted_first(COMPONENT, sign=-1.0)
    assert choose_circuit(bound, scores, TASK, target=Target(0.15)).circuit == COMPONENT.circuit
    signed = choose_circuit(bound, replace(scores, absolute=False), TASK, target=Target(0.15))
    assert signed.circuit.n_edges > COMPONENT.graph.n_edges - len(COMPONENT.names)


def test_calibration_is_fitted_on_train_prompts_and_judged_on_validation_prompts() -> None:
    bound = bind(COMPONENT.model, COMPONENT.graph, COMPONENT.ablation)
    seen: list[Prompts] = []

    def calibrate(logits: torch.Tensor, prompts: Prompts) -> Calibration:
        seen.append(prompts)
        return Calibration(0.5, 0.25)

    chosen = choose_circuit(
        bound, planted_first(COMPONENT), TASK, target=Target(0.3), calibrate=calibrate
    )
    assert all(torch.equal(prompts.clean, TASK.train.clean) for prompts in seen)
    assert chosen.calibration == Calibration(0.5, 0.25)
    validation = TASK.split("validation")
    logits = circuit_logits(bound, chosen.circuit, validation)
    assert chosen.loss == float(Calibration(0.5, 0.25).loss(logits, validation).mean())
    assert chosen.loss > float(TaskLoss()(logits, validation).mean())


def test_nothing_is_chosen_without_validation_prompts() -> None:
    bound = bind(COMPONENT.model, COMPONENT.graph, COMPONENT.ablation)
    with pytest.raises(ValueError, match="no validation split"):
        choose_circuit(
            bound, planted_first(COMPONENT), Task("t", train=TASK.train), target=Target(0.15)
        )


def test_logits_do_not_depend_on_the_batch_size() -> None:
    """Also where each prompt has its own ablated values and its own answer position."""
    problem = planted.problems()["dense, component, interchange"]
    bound = bind(problem.model, problem.graph, problem.ablation)
    prompts = replace(TASK.train[:7], positions=torch.tensor([0, 1, 2, 3, 4, 3, 2]))
    together = circuit_logits(bound, problem.circuit, prompts)
    apart = circuit_logits(bound, problem.circuit, prompts, batch_size=2)
    torch.testing.assert_close(apart, together)
    assert not together.requires_grad
    # The same when the ablation has the tokens, a row for each prompt.
    given = bind(problem.model, problem.graph, InterchangeAblation(tokens=prompts.corrupted))
    own = circuit_logits(given, problem.circuit, prompts, batch_size=2)
    torch.testing.assert_close(own, together)
