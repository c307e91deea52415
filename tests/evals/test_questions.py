"""Questions about a circuit, each against a slow version that runs one prompt at a time."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation, draw_other_prompts
from sparse_lens.circuit import Circuit
from sparse_lens.cost import metered
from sparse_lens.discovery import Discovery
from sparse_lens.evals.answers import Answer
from sparse_lens.evals.controls import complement
from sparse_lens.evals.metrics import measure
from sparse_lens.evals.questions import (
    Completeness,
    Minimality,
    Necessity,
    PromptStability,
    RandomSubsets,
    ResampledValues,
    kl_over_positions,
    necessity,
    partly_ablated,
    prompt_stability,
    recovered_fraction,
    resampled,
    transfer,
)
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.method import Method
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import bind, patched, run_circuit
from sparse_lens.scores import Scores
from sparse_lens.search import ChosenCircuit
from sparse_lens.task import Prompts
from tests.evals import toy_comparison as toy
from tests.graphs.tiny import random_edge_circuit, random_node_circuit

PROMPTS = toy.prompts(5, 9)
each_graph = pytest.mark.parametrize(
    "graph_of", [ChannelGraph.from_model, ComponentGraph.from_model]
)
each_kind = pytest.mark.parametrize("make", [random_node_circuit, random_edge_circuit])


def circuit_on(graph_of: Any, make: Any) -> tuple[Any, Circuit]:
    """A model and a random circuit, which keeps the ends of a component graph."""
    model = toy.model()
    graph = graph_of(model)
    circuit = make(graph, 0.5, seed=1)
    if graph.kind == "component" and circuit.is_node_circuit:
        circuit |= Circuit.from_node_names(graph, ["input", "logits"])
    return model, circuit


def slow_losses(model: Any, circuit: Circuit, ablation_of: Any) -> list[float]:
    """Two-way losses of prompts that run alone, by the formula."""
    assert PROMPTS.distractors is not None
    losses = []
    for i, position in enumerate(PROMPTS.answer_positions.tolist()):
        with torch.no_grad():
            logits = run_circuit(model, circuit, PROMPTS.clean[i : i + 1], ablation=ablation_of(i))
        answer, distractor = (
            math.exp(float(logits[0, position, int(tokens[i])]))
            for tokens in (PROMPTS.answers, PROMPTS.distractors)
        )
        losses.append(-math.log(answer / (answer + distractor)))
    return losses


def test_an_answer_is_a_mean_with_its_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 3
    answer = Answer.of(values)
    assert answer.mean == pytest.approx(sum(values.tolist()) / 400)
    half = 1.96 * float(values.double().std()) / 20
    assert answer.low == pytest.approx(answer.mean - half, abs=0.02)
    assert answer.high == pytest.approx(answer.mean + half, abs=0.02)
    again, other = Answer.of(values), Answer.of(values, seed=1)
    assert (again.low, again.high) == (answer.low, answer.high)
    assert other.low != answer.low
    bound, circuit = _bound_and_circuit()
    metrics = measure(bound, circuit, PROMPTS)
    assert metrics.answer("kl").mean == pytest.approx(metrics.means()["kl"])
    assert torch.equal(metrics.answer("accuracy").values, metrics.accuracy)


def _bound_and_circuit() -> Any:
    model, circuit = circuit_on(ChannelGraph.from_model, random_node_circuit)
    return bind(model, circuit.graph, MeanAblation()), circuit


@each_graph
@each_kind
def test_resampled_values_are_those_of_another_prompt(graph_of: Any, make: Any) -> None:
    model, circuit = circuit_on(graph_of, make)
    bound = bind(model, circuit.graph, ZeroAblation())
    found = resampled(bound, circuit, PROMPTS, draws=2, seed=3, batch_size=4)
    generator = torch.Generator().manual_seed(3)
    for metrics in found.metrics:
        others = draw_other_prompts(PROMPTS, generator)

        def ablation(i: int, others: Any = others) -> InterchangeAblation:
            return InterchangeAblation(PROMPTS.clean[others[i]][None])

        assert metrics.task_loss.tolist() == pytest.approx(
            slow_losses(model, circuit, ablation), abs=1e-5
        )
    again = resampled(bound, circuit, PROMPTS, draws=2, seed=3)
    torch.testing.assert_close(again.values("kl"), found.values("kl"), atol=1e-5, rtol=1e-5)
    assert not torch.equal(found.values("kl")[0], found.values("kl")[1])


def test_other_prompts_are_at_least_as_long_and_all_are_drawn() -> None:
    assert PROMPTS.lengths is not None
    lengths = PROMPTS.lengths.tolist()
    generator = torch.Generator().manual_seed(0)
    drawn: list[Counter[int]] = [Counter() for _ in lengths]
    for _ in range(200):
        for i, other in enumerate(draw_other_prompts(PROMPTS, generator).tolist()):
            drawn[i][other] += 1
    for i, counts in enumerate(drawn):
        candidates = [j for j in range(10) if j != i and lengths[j] >= lengths[i]]
        assert sorted(counts) == candidates
        for count in counts.values():
            assert count == pytest.approx(200 / len(candidates), rel=0.6)


def test_the_longest_prompt_takes_the_next_longest_and_one_alone_is_refused() -> None:
    tokens = torch.zeros(3, 6, dtype=torch.long)
    prompts = Prompts(
        clean=torch.arange(3)[:, None].expand(3, 6),
        corrupted=tokens,
        answers=torch.full((3,), 3),
        distractors=torch.full((3,), 7),
        lengths=torch.tensor([4, 6, 5]),
    )
    for seed in range(5):
        others = draw_other_prompts(prompts, torch.Generator().manual_seed(seed)).tolist()
        assert others[1:] == [2, 1]
    with pytest.raises(ValueError, match="there is no other one"):
        draw_other_prompts(prompts[:1], torch.Generator())


@each_graph
@each_kind
def test_subsets_of_what_is_absent(graph_of: Any, make: Any) -> None:
    model, circuit = circuit_on(graph_of, make)
    ablation = MeanAblation()
    bound = bind(model, circuit.graph, ablation)
    found = partly_ablated(bound, circuit, PROMPTS, share=0.3, draws=3, seed=5, batch_size=4)
    names = Circuit.node_names if circuit.is_node_circuit else Circuit.edge_names
    everything = names(Circuit.full(circuit.graph))
    inside = set(names(circuit))
    for one, metrics in zip(found.circuits, found.metrics, strict=True):
        assert inside <= set(names(one))
        n_ablated = len(everything) - len(names(one))
        n_absent = len(everything) - len(inside)
        spread = 3 * math.sqrt(n_absent * 0.3 * 0.7)
        assert n_ablated == pytest.approx(0.3 * n_absent, abs=spread)
        expected = slow_losses(model, one, lambda _: ablation)
        assert metrics.task_loss.tolist() == pytest.approx(expected, abs=1e-5)
    means = [sum(metrics.task_loss.tolist()) / 10 for metrics in found.metrics]
    assert found.mean("task_loss").mean == pytest.approx(sum(means) / 3)
    assert found.worst("task_loss").mean == pytest.approx(max(means))
    accuracies = [float(metrics.accuracy.mean()) for metrics in found.metrics]
    assert found.worst("accuracy").mean == pytest.approx(min(accuracies))
    again = partly_ablated(bound, circuit, PROMPTS, share=0.3, draws=3, seed=5, batch_size=4)
    assert again.circuits == found.circuits
    assert torch.equal(again.values("kl"), found.values("kl"))
    other = partly_ablated(bound, circuit, PROMPTS, share=0.3, draws=3, seed=6)
    assert other.circuits != found.circuits


@each_graph
def test_ablating_all_that_is_absent_leaves_the_circuit(graph_of: Any) -> None:
    for make in (random_node_circuit, random_edge_circuit):
        model, circuit = circuit_on(graph_of, make)
        bound = bind(model, circuit.graph, MeanAblation())
        if not circuit.is_node_circuit:  # nodes that no edge can touch stay
            circuit = Circuit.from_edge_names(circuit.graph, circuit.edge_names())
        found = partly_ablated(bound, circuit, PROMPTS, share=1.0, draws=1)
        assert found.circuits == (circuit,)
        assert torch.equal(found.metrics[0].kl, measure(bound, circuit, PROMPTS).kl)


@each_graph
def test_frozen_norm_scales(graph_of: Any) -> None:
    model, circuit = circuit_on(graph_of, random_edge_circuit)
    ablation = MeanAblation()
    bound = bind(model, circuit.graph, ablation)
    found = measure(bound, circuit, PROMPTS, freeze_norm_scales=True, batch_size=4)
    context = {"ablation": ablation, "prompts": PROMPTS, "freeze_norm_scales": True}
    with torch.no_grad(), patched(model, circuit, **context):
        logits = model(PROMPTS.clean)
    at_answers = logits[torch.arange(10), PROMPTS.answer_positions]
    torch.testing.assert_close(found.task_loss, TaskLoss()(at_answers, PROMPTS))
    assert not torch.allclose(found.task_loss, measure(bound, circuit, PROMPTS).task_loss)


@each_graph
@each_kind
def test_necessity_is_what_the_rest_does(graph_of: Any, make: Any) -> None:
    model, circuit = circuit_on(graph_of, make)
    ablation = MeanAblation()
    bound = bind(model, circuit.graph, ablation)
    found = necessity(bound, circuit, PROMPTS, draws=2, seed=1, batch_size=4)
    rests = (complement(circuit), *found.random.circuits)
    for rest, metrics in zip(rests, (found.ablated, *found.random.metrics), strict=True):
        expected = slow_losses(model, rest, lambda _: ablation)
        assert metrics.task_loss.tolist() == pytest.approx(expected, abs=1e-5)
    count = (lambda c: c.n_nodes) if circuit.is_node_circuit else (lambda c: c.n_edges)
    assert len({count(rest) for rest in rests}) == 1
    # This small component graph has one circuit with as many nodes at each site.
    has_choice = not circuit.is_node_circuit or isinstance(circuit.graph, ChannelGraph)
    assert (len(set(rests)) > 1) == has_choice
    assert necessity(bound, circuit, PROMPTS, draws=2, seed=1).random.circuits == rests[1:]


@each_graph
def test_the_recovered_fraction_is_a_ratio_of_means(graph_of: Any) -> None:
    model, circuit = circuit_on(graph_of, random_edge_circuit)
    ablation = InterchangeAblation()
    graph = circuit.graph
    bound = bind(model, graph, ablation)
    differences = {}
    rows = torch.arange(10)
    for name, one in (
        ("kept", circuit),
        ("full", Circuit.full(graph)),
        ("empty", Circuit.empty(graph)),
    ):
        with torch.no_grad():
            logits = run_circuit(model, one, PROMPTS, ablation=ablation)
        at = logits[rows, PROMPTS.answer_positions].double()
        differences[name] = at[rows, PROMPTS.answers] - at[rows, PROMPTS.distractors]
    means = {name: sum(found.tolist()) / 10 for name, found in differences.items()}
    expected = (means["kept"] - means["empty"]) / (means["full"] - means["empty"])
    found = recovered_fraction(bound, circuit, PROMPTS)
    assert found.mean == pytest.approx(expected, rel=1e-4)
    assert found.mean == pytest.approx(float(found.values.mean()))
    assert found.low <= found.mean <= found.high
    for one, fraction in ((Circuit.full(graph), 1.0), (Circuit.empty(graph), 0.0)):
        whole = recovered_fraction(bound, one, PROMPTS)
        assert (whole.mean, whole.low, whole.high) == pytest.approx((fraction,) * 3, abs=1e-4)


@each_graph
@pytest.mark.parametrize("ablation", [MeanAblation(), InterchangeAblation()])
def test_kl_over_positions(graph_of: Any, ablation: Any) -> None:
    model, circuit = circuit_on(graph_of, random_edge_circuit)
    bound = bind(model, circuit.graph, ablation)
    with torch.no_grad():
        full = model(PROMPTS.clean).double().log_softmax(-1)
        kept = run_circuit(model, circuit, PROMPTS, ablation=ablation).double().log_softmax(-1)
    assert PROMPTS.lengths is not None
    expected = []
    for i, length in enumerate(PROMPTS.lengths.tolist()):
        each = [
            sum(
                math.exp(p) * (p - q)
                for p, q in zip(full[i, at].tolist(), kept[i, at].tolist(), strict=True)
            )
            for at in range(length)
        ]
        expected.append(sum(each) / length)
    found = kl_over_positions(bound, circuit, PROMPTS, batch_size=4)
    assert found.values.tolist() == pytest.approx(expected, abs=1e-5)
    answers = torch.zeros(10, 6, dtype=torch.bool)
    answers[torch.arange(10), PROMPTS.answer_positions] = True
    at_answers = kl_over_positions(bound, circuit, PROMPTS, where=answers)
    torch.testing.assert_close(at_answers.values, measure(bound, circuit, PROMPTS).kl)
    answers[3] = False
    with pytest.raises(ValueError, match=r"no position counts of prompts \[3\]"):
        kl_over_positions(bound, circuit, PROMPTS, where=answers)


def test_transfer_is_the_change_between_the_splits() -> None:
    bound, circuit = _bound_and_circuit()
    task = toy.task()
    found = transfer(bound, circuit, task)
    train, held_out = (
        measure(bound, circuit, task.split(name)).means()["kl"] for name in ("train", "held_out")
    )
    change = found.change("kl")
    assert change.mean == pytest.approx(held_out - train)
    assert change.low < change.mean < change.high
    assert change == found.change("kl")


@dataclass(frozen=True)
class ByPrompts(Method):
    """Keeps the nodes whose numbers are tokens of the train prompts."""

    objective: Objective = TaskLoss()
    met: bool = True
    seen: list[Any] = field(default_factory=list)

    def discover(self, model, graph, task, *, ablation, seed=0):
        self.seen.append(task.train)
        nodes = torch.zeros(graph.n_nodes)
        nodes[task.train.clean.unique()] = 1
        scores = Scores(graph, nodes=graph.unflatten(nodes))
        circuit = scores.top(n_nodes=int(nodes.sum()))
        met = self.met or len(self.seen) % 2 == 0
        chosen = ChosenCircuit(circuit, 0.0, met, ())
        with metered(model) as meter:
            return Discovery(self, task.name, scores, chosen, meter.cost(), seed)


def test_stability_over_resampled_prompts() -> None:
    model = toy.model()
    graph = ChannelGraph.from_model(model)
    bound, task = toy.bound(graph, model), toy.task()
    method = ByPrompts()
    found = prompt_stability(method, bound, task, resamples=3, seed=4)
    whole = {tuple(row) for row in task.train.clean.tolist()}
    kept = []
    for train in method.seen:
        assert len(train) == len(task.train)
        assert {tuple(row) for row in train.clean.tolist()} <= whole
        kept.append({token for row in train.clean.tolist() for token in row})
    pairs = ((0, 1), (0, 2), (1, 2))
    expected = [len(kept[a] & kept[b]) / len(kept[a] | kept[b]) for a, b in pairs]
    assert found.ious == pytest.approx(expected)
    assert found.mean_iou == pytest.approx(sum(expected) / 3)
    assert len(set(found.ious)) > 1
    again = prompt_stability(ByPrompts(), bound, task, resamples=3, seed=4)
    assert again.circuits == found.circuits

    unmet = prompt_stability(ByPrompts(met=False), bound, task, resamples=3)
    assert (len(unmet.circuits), unmet.ious, unmet.mean_iou) == (1, (), None)
    fixed = prompt_stability(
        ByPrompts(), bound, task, resamples=2, circuit_of=lambda one: one.at(n_nodes=4)
    )
    assert {circuit.n_nodes for circuit in fixed.circuits} == {4}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"draws": 0}, "draws must be 1 or more"),
        ({"share": 0.0}, "share must lie in"),
        ({"share": 1.5}, "share must lie in"),
    ],
)
def test_bad_numbers_are_refused(bad: dict[str, Any], message: str) -> None:
    bound, circuit = _bound_and_circuit()
    with pytest.raises(ValueError, match=message):
        partly_ablated(bound, circuit, PROMPTS, **bad)


@pytest.mark.parametrize(
    ("question", "bad", "message"),
    [
        (Completeness, {"draws": 0}, "draws must be 1 or more, got 0"),
        (Completeness, {"share": 0.0}, r"share must lie in \(0, 1\], got 0"),
        (Minimality, {"nodes": 0}, "nodes must be 1 or more, got 0"),
        (Necessity, {"draws": -1}, "draws must be 1 or more, got -1"),
        (PromptStability, {"resamples": 1}, "two resamples or more, got 1"),
        (RandomSubsets, {"draws": 0}, "draws must be 1 or more, got 0"),
        (RandomSubsets, {"share": 1.5}, r"share must lie in \(0, 1\], got 1.5"),
        (ResampledValues, {"draws": 0}, "draws must be 1 or more, got 0"),
    ],
)
def test_questions_refuse_bad_numbers(question: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        question(**bad)
