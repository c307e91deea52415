"""The planted circuits are what the models need, and each method finds one on each of them."""

from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation
from sparse_lens.baselines import AttributionPatching, EdgePruning, MagnitudeScores, RandomScores
from sparse_lens.circuit import Circuit
from sparse_lens.method import Method
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import full_logits, run_circuit
from sparse_lens.task import Task
from tests import planted
from tests.patching.test_context import state
from tests.planted import Problem

TARGET = 0.15
METHODS: dict[str, Method] = {
    "node pruning": NodePruning(n_steps=6, learning_rate=0.05, k_coef=0.01),
    "attribution": AttributionPatching(),
    "edge pruning": EdgePruning(target_sparsity=0.9, n_steps=40, learning_rate=0.5),
    "magnitude": MagnitudeScores(),
    "random": RandomScores(),
}
each_problem = pytest.mark.parametrize("name", planted.problems())
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def loss(problem: Problem, circuit: Circuit) -> float:
    """Of the circuit on the held-out prompts."""
    prompts = planted.task().split("held_out")
    with torch.no_grad():
        logits = run_circuit(problem.model, circuit, prompts, ablation=problem.ablation)[:, -1]
    return float(TaskLoss()(logits, prompts).mean())


@each_problem
def test_the_model_does_its_task_and_so_does_the_planted_circuit_alone(name: str) -> None:
    problem, held_out = planted.problems()[name], planted.task().split("held_out")
    logits = full_logits(problem.model, held_out)
    assert float(TaskLoss()(logits, held_out).mean()) < 0.05
    assert loss(problem, problem.circuit) < 0.05
    assert loss(problem, problem.node_circuit) < 0.05


@each_problem
def test_every_part_of_the_planted_circuit_is_needed(name: str) -> None:
    """Also in the full model, whose other parts do not stand in for it."""
    problem = planted.problems()[name]
    full = Circuit.full(problem.graph)
    for part in problem.names:
        lost = problem.circuit - problem.without(part)
        if problem.circuit.is_node_circuit:
            assert lost.node_names() == [part]
        assert loss(problem, full - lost) > TARGET, part
        assert loss(problem, problem.without(part)) > TARGET, part


def test_the_rest_of_the_models_is_not_silent() -> None:
    """What lies outside the circuits writes to the stream, so leaving it out is a finding."""
    prompts = planted.task().train
    for model in (planted.dense_model(), planted.sparse_model()):
        _, cache = model.run_with_cache(prompts.clean)
        for layer in range(2):
            heads = cache["z", layer].abs().amax((0, 1, 3))
            assert bool((heads > 1e-3).all())
            neurons = cache["post", layer].abs().amax((0, 1))
            assert int((neurons > 1e-3).count_nonzero()) > len(planted.NEURONS)


@each_method
@each_problem
def test_a_method_finds_a_circuit_that_does_the_task(name: str, method: Method) -> None:
    problem, task = planted.problems()[name], planted.task()
    before = state(problem.model)
    found = method.discover(problem.model, problem.graph, task, ablation=problem.ablation, seed=1)
    assert state(problem.model) == before
    assert (found.method, found.task, found.seed) == (method, task.name, 1)
    assert found.chosen is not None
    assert found.chosen.met_target
    assert found.chosen.loss <= TARGET
    assert loss(problem, found.circuit) < 2 * TARGET


@each_method
@pytest.mark.parametrize("name", ["dense, component, interchange", "dense, channel, interchange"])
def test_ablation_tokens_stay_with_their_prompts(name: str, method: Method) -> None:
    """Whatever the order in which prompts are drawn."""
    problem, task = planted.problems()[name], Task("train", train=planted.task().train)

    def scores(ablation: InterchangeAblation) -> dict[str, float]:
        found = method.discover(problem.model, problem.graph, task, ablation=ablation)
        return found.scores.by_name()

    given = scores(InterchangeAblation(tokens=task.train.corrupted))
    assert given == pytest.approx(scores(InterchangeAblation()), rel=1e-5, abs=1e-7)


@each_method
def test_same_seed_same_circuit(method: Method) -> None:
    problem = planted.problems()["sparse, channel, mean"]

    def discover(seed: int) -> Any:
        return method.discover(
            problem.model, problem.graph, planted.task(), ablation=problem.ablation, seed=seed
        )

    torch.manual_seed(0)
    state_of_others = torch.get_rng_state()
    first = discover(3)
    assert torch.equal(torch.get_rng_state(), state_of_others)
    torch.manual_seed(1)
    again = discover(3)
    assert first.scores.by_name() == again.scores.by_name()
    assert first.circuit == again.circuit
    assert first.history == again.history
    assert first.cost.forward_passes == again.cost.forward_passes


@each_method
def test_every_forward_pass_is_counted(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = planted.problems()["dense, component, interchange"]
    passes = []
    forward = problem.model.forward
    monkeypatch.setattr(
        problem.model, "forward", lambda *args, **kw: passes.append(1) or forward(*args, **kw)
    )
    found = method.discover(
        problem.model, problem.graph, planted.task(), ablation=problem.ablation, seed=0
    )
    assert found.cost.forward_passes == len(passes)
    assert found.cost.seconds > 0
    assert found.cost.peak_memory is None  # this is not CUDA


class Failing(Objective):
    """Raises at the first loss."""

    def __call__(self, logits: Any, prompts: Any, full_logits: Any = None) -> Any:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("kind", [NodePruning, AttributionPatching, EdgePruning])
@pytest.mark.parametrize("graph", ["component", "channel"])
def test_the_model_is_left_as_found_when_the_objective_raises(graph: str, kind: Any) -> None:
    problem = planted.problems()[f"dense, {graph}, interchange"]
    before = state(problem.model)
    with pytest.raises(RuntimeError, match="on purpose"):
        kind(objective=Failing()).discover(
            problem.model, problem.graph, planted.task(), ablation=problem.ablation
        )
    assert state(problem.model) == before


@each_method
def test_a_graph_of_another_model_is_refused(method: Method) -> None:
    dense = planted.problems()["dense, channel, mean"]
    sparse = planted.problems()["sparse, channel, mean"]
    with pytest.raises(ValueError, match="graph"):
        method.discover(sparse.model, dense.graph, planted.task(), ablation=sparse.ablation)


@each_method
def test_means_of_a_model_without_reference_tokens_are_refused(method: Method) -> None:
    problem = planted.problems()["dense, component, mean"]
    with pytest.raises(ValueError, match=r"MeanAblation\(tokens="):
        method.discover(problem.model, problem.graph, planted.task(), ablation=MeanAblation())
