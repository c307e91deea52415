"""Greedy removal finds what was planted, and does what a slow and obvious version does."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_lens.ablation import ResampleAblation, ZeroAblation
from sparse_lens.circuit import Circuit
from sparse_lens.cost import metered
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.objectives import TaskLoss
from sparse_lens.patching import BoundAblation, Kept, bind, circuit_logits
from sparse_lens.refinement import refined
from sparse_lens.refinement.greedy import remove
from sparse_lens.refinement.judge import Judge
from sparse_lens.refinement.units import Edges, Nodes, Removable, as_edges
from sparse_lens.search import ChosenCircuit
from sparse_lens.target import Target, upper_bound
from sparse_lens.task import Prompts, Task
from tests import planted
from tests.graphs.tiny import random_node_circuit
from tests.patching import tiny
from tests.patching.test_context import state
from tests.planted import Problem

TARGET = 0.15


def refine(problem: Problem, start: Circuit, **options: Any) -> ChosenCircuit:
    bound = bind(problem.model, problem.graph, problem.ablation)
    chosen = ChosenCircuit(start, loss=0.0, met_target=True, tried=())
    with metered(problem.model) as meter:
        return refined(bound, chosen, planted.task(), target=Target(TARGET), meter=meter, **options)


@pytest.mark.parametrize("name", planted.problems())
def test_of_the_full_model_exactly_the_planted_nodes_are_left(name: str) -> None:
    problem = planted.problems()[name]
    found = refine(problem, Circuit.full(problem.graph))
    assert found.circuit == problem.node_circuit
    validation = planted.task().split("validation")
    bound = bind(problem.model, problem.graph, problem.ablation)
    losses = TaskLoss()(circuit_logits(bound, found.circuit, validation), validation)
    assert found.loss == pytest.approx(float(losses.mean()), rel=1e-4)


@pytest.mark.parametrize("name", [n for n in planted.problems() if "component" in n])
def test_of_the_edges_between_them_exactly_the_planted_ones_are_left(name: str) -> None:
    problem = planted.problems()[name]
    found = refine(problem, problem.node_circuit, edges=True)
    assert found.circuit == problem.circuit
    # From a circuit that was given by edges, too.
    all_between = Kept.of(problem.node_circuit)
    start = as_edges(all_between).circuit()
    assert refine(problem, start, edges=True).circuit == problem.circuit
    assert not refine(problem, start).circuit.is_node_circuit


def obvious(
    bound: BoundAblation, start: Kept, task: Task, removable: Any, limit: float, n_passes: int
) -> tuple[list[Any], Circuit]:
    """Whole passes of the hooked model, one circuit after the other."""
    train, validation = task.train, task.split("validation")

    def losses(circuit: Circuit) -> tuple[float, float]:
        parts = [
            TaskLoss()(circuit_logits(bound, circuit, prompts), prompts)
            for prompts in (train, validation)
        ]
        return float(torch.cat(parts).mean()), float(parts[1].mean())

    def without(circuit: Circuit, unit: Any) -> Circuit:
        """By sets of names."""
        graph = circuit.graph
        if isinstance(unit, tuple):
            name = graph.edge_name(*unit)
            rest = [edge for edge in circuit.edge_names() if edge != name]
            return from_edges(circuit, rest)
        name = list(graph.node_names())[unit]
        if circuit.is_node_circuit:
            return Circuit.from_node_names(graph, [n for n in circuit.node_names() if n != name])
        rest = [edge for edge in circuit.edge_names() if name not in ends(edge)]
        return from_edges(circuit, rest)

    circuit, order = start.circuit(), []
    for _ in range(n_passes):
        before = len(order)
        units = removable.units(Kept.of(circuit))
        harm = {unit: losses(without(circuit, unit))[0] for unit in units}
        current = losses(circuit)
        for unit in sorted(units, key=lambda unit: harm[unit]):
            if unit not in removable.units(Kept.of(circuit)):
                continue
            smaller = without(circuit, unit)
            now = losses(smaller)
            if all(new <= max(limit, old) for new, old in zip(now, current, strict=True)):
                circuit, current = smaller, now
                order.append(unit)
        if len(order) == before:
            break
    return order, circuit


def from_edges(circuit: Circuit, names: list[str]) -> Circuit:
    """These edges, and of the nodes that no edge can touch those of a circuit."""
    masks = {
        block: Circuit.from_edge_names(circuit.graph, names).edge_mask(block)
        for block in circuit.graph.blocks
    }
    return Circuit.from_edge_masks(circuit.graph, masks, node_masks=circuit.node_masks)


def ends(edge: str) -> tuple[str, str]:
    """The nodes of an edge of a component graph, whose reader may be one input of a head."""
    source, destination = edge.split("->")
    return source, destination.partition("<")[0]


class Recording(Removable):
    """Notes what is removed for good: what the next circuit is made from."""

    def __init__(self, removable: Removable) -> None:
        self._removable = removable
        self._made: dict[int, tuple[Kept, Kept, Any]] = {}

    def units(self, kept: Kept) -> list[Any]:
        return self._removable.units(kept)

    def keeps(self, kept: Kept, unit: Any) -> bool:
        return self._removable.keeps(kept, unit)

    def without(self, kept: Kept, unit: Any) -> Kept:
        smaller = self._removable.without(kept, unit)
        self._made[id(smaller)] = smaller, kept, unit
        return smaller

    def order(self, kept: Kept) -> list[Any]:
        """What was removed on the way to a circuit."""
        removed = []
        while id(kept) in self._made:
            _, kept, unit = self._made[id(kept)]
            removed.append(unit)
        return removed[::-1]


CASES = {
    "nodes, AbsTopK": (tiny.sparse, "all of it", ChannelGraph, Nodes(), 0.25),
    "nodes, plain": (tiny.sparse, "plain", ChannelGraph, Nodes(), 0.25),
    "edges, AbsTopK": (tiny.sparse, "AbsTopK everywhere", ChannelGraph, Edges(), 0.2),
    "nodes, component": (tiny.sparse, "plain", ComponentGraph, Nodes(), 0.9),
    "nodes of edges, component": (tiny.dense, "LN", ComponentGraph, Nodes(), 0.9),
    "edges, component": (tiny.dense, "LN", ComponentGraph, Edges(), 0.9),
}


def with_answers_of(bound: BoundAblation, start: Kept, prompts: Prompts) -> Prompts:
    """The same prompts, with the token that a circuit does most for, and most against."""
    circuits = (start.circuit(), Circuit.empty(bound.graph))
    logits, without = (circuit_logits(bound, circuit, prompts) for circuit in circuits)
    gain = logits - without
    return replace(prompts, answers=gain.argmax(-1), distractors=gain.argmin(-1))


def mean_loss(bound: BoundAblation, kept: Kept, task: Task) -> float:
    """Over the train and validation prompts together."""
    parts = (task.train, task.split("validation"))
    losses = [TaskLoss()(circuit_logits(bound, kept.circuit(), part), part) for part in parts]
    return float(torch.cat(losses).mean())


@pytest.mark.parametrize("case", CASES)
def test_the_same_goes_in_the_same_order_as_in_a_slow_version(case: str) -> None:
    make, name, graph_type, removable, share = CASES[case]
    model = make(name, dtype=torch.float64)
    graph = graph_type.from_model(model)
    bound = bind(model, graph, ResampleAblation() if "nodes" in case else ZeroAblation())
    start = Kept.of(random_node_circuit(graph, share, seed=3))
    start = as_edges(start) if "edges" in case else start
    train, validation = (with_answers_of(bound, start, tiny.prompts(n=n, seed=n)) for n in (4, 3))
    task = Task("t", train=train, validation=validation)
    limit = mean_loss(bound, start, task) + 0.05
    judge = Judge(bound, task, target=Target(limit, margin=0.0), calibrate=None)
    recording = Recording(removable)
    found = remove(judge, start, recording, n_passes=2)
    order, circuit = obvious(bound, start, task, removable, limit, 2)
    assert recording.order(found) == order
    assert found.circuit() == circuit
    assert len(order) > 0
    assert removable.units(found), "something has to stay for the order to matter"


def test_a_circuit_that_misses_its_target_is_left_alone() -> None:
    problem = planted.problems()["sparse, channel, mean"]
    bound = bind(problem.model, problem.graph, problem.ablation)
    full = ChosenCircuit(Circuit.full(problem.graph), loss=9.0, met_target=False, tried=())
    met = ChosenCircuit(Circuit.full(problem.graph), loss=0.1, met_target=True, tried=())
    with metered(problem.model) as meter:
        options: Any = {"target": Target(TARGET), "meter": meter}
        assert refined(bound, full, planted.task(), **options) is full
        assert refined(bound, met, planted.task(), n_passes=0, **options) is met
        assert meter.forward_passes == 0


def test_what_is_above_the_limit_loses_only_what_does_harm() -> None:
    """A circuit that was chosen on validation prompts can miss the target on all of them."""
    problem = planted.problems()["sparse, component, mean"]
    bound, task = bind(problem.model, problem.graph, problem.ablation), planted.task()
    judge = Judge(bound, task, target=Target(1e-9, margin=0.0), calibrate=None)
    full = Kept.of(Circuit.full(problem.graph))
    before = judge.judge(full)
    after = judge.judge(remove(judge, full, Nodes(), n_passes=3))
    assert after.together.mean <= before.together.mean
    assert after.validation.mean <= before.validation.mean


@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_losses_stay_below_the_target_by_the_margin(margin: float) -> None:
    problem = planted.problems()["sparse, channel, mean"]
    bound, task, limit = bind(problem.model, problem.graph, problem.ablation), planted.task(), 0.3
    judge = Judge(bound, task, target=Target(limit, margin=margin), calibrate=None)
    start = Kept.of(Circuit.full(problem.graph))
    kept = remove(judge, start, Nodes(), n_passes=1)
    for prompts in ((task.train, task.split("validation")), (task.split("validation"),)):
        losses = [TaskLoss()(circuit_logits(bound, kept.circuit(), part), part) for part in prompts]
        assert upper_bound(torch.cat(losses), margin) <= limit


def test_train_prompts_count_as_validation_prompts_do() -> None:
    """What only the train prompts need is kept, and what only the validation prompts need."""
    problem = planted.problems()["sparse, channel, interchange"]
    task, bound = planted.task(), bind(problem.model, problem.graph, problem.ablation)
    # Of the pairs the first half differ in the bit a, or in b: see planted._prompts.
    in_a, in_b = (task.train[start::2] for start in (0, 1))
    met = ChosenCircuit(Circuit.full(problem.graph), loss=0.1, met_target=True, tried=())
    found = {}
    with metered(problem.model) as meter:
        for key, train, validation in (
            ("a", in_a, in_a),
            ("a, b", in_a, in_b),
            ("b, a", in_b, in_a),
        ):
            split = Task("t", train=train, validation=validation)
            found[key] = refined(bound, met, split, target=Target(TARGET), meter=meter).circuit
    assert found["a"].n_nodes < problem.circuit.n_nodes
    assert found["a, b"] == found["b, a"] == problem.circuit


def test_each_set_of_prompts_is_run_once_and_no_more_than_decides() -> None:
    problem = planted.problems()["dense, component, mean"]
    bound = bind(problem.model, problem.graph, problem.ablation)
    judge = Judge(bound, planted.task(), target=Target(TARGET, margin=0.0), calibrate=None)
    full, empty = (Kept.of(make(problem.graph)) for make in (Circuit.full, Circuit.empty))
    before = judge.judge(full)
    with metered(problem.model) as meter:
        assert judge.judge_within(full, before) is not None
        assert meter.forward_passes == 2
        assert judge.judge_within(empty, before) is None
        assert meter.forward_passes == 3


@pytest.mark.parametrize("name", ["sparse, channel, mean", "dense, component, interchange"])
def test_passes_are_counted_and_the_model_is_left_as_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = planted.problems()[name]
    bound = bind(problem.model, problem.graph, problem.ablation)
    met = ChosenCircuit(Circuit.full(problem.graph), loss=0.1, met_target=True, tried=())
    before, counts, circuits = state(problem.model), [], []
    for _ in range(2):
        with metered(problem.model) as meter:
            found = refined(bound, met, planted.task(), target=Target(TARGET), meter=meter)
        counts.append(meter.forward_passes)
        circuits.append(found.circuit)
    assert counts[0] == counts[1] > problem.node_circuit.n_nodes
    assert circuits[0] == circuits[1]
    assert state(problem.model) == before

    calls: list[int] = []

    def failing(self: TaskLoss, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return original(self, *arguments)

    original = TaskLoss.__call__
    monkeypatch.setattr(TaskLoss, "__call__", failing)
    with pytest.raises(KeyboardInterrupt), metered(problem.model) as meter:
        refined(bound, met, planted.task(), target=Target(TARGET), meter=meter)
    assert state(problem.model) == before
