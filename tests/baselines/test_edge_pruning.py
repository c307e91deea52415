"""Edge Pruning: what its gates mean, what it finds, and that nothing but the seed decides."""

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.baselines.edge_pruning.gates import EdgeGates
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.hard_concrete import HardConcrete
from sparse_lens.method import Discovery
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference, Objective, TaskLoss
from sparse_lens.patching import answer_logits, patched
from sparse_lens.scores import Scores
from sparse_lens.task import Prompts, Task
from tests import planted
from tests.graphs.tiny import GRAPHS
from tests.patching import tiny
from tests.patching.test_context import state

TASK = Task("random", train=tiny.prompts(10, padded=False))
# Gates that are half open from the first step on, so that a few steps tell runs apart.
SHORT: dict[str, Any] = {"n_steps": 6, "batch_size": 4, "initial_mean": 0.5, "initial_std": 1.0}
each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


def tiny_problem(kind: str, **changes: Any) -> tuple[Any, Graph]:
    if kind == "component":
        model = tiny.dense("LN", **changes)
        return model, ComponentGraph.from_model(model)
    model = tiny.sparse("plain", **changes)
    return model, ChannelGraph.from_model(model)


def discover(kind: str, seed: int = 0, task: Task = TASK, **settings: Any) -> Discovery:
    model, graph = tiny_problem(kind)
    method = EdgePruning(**(SHORT | settings))
    return method.discover(model, graph, task, ablation=InterchangeAblation(), seed=seed)


def random(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


# What a vector of gates means.


def source_of(graph: Graph, block: str, column: int) -> int:
    return int(graph.ends[block].src[column])


def slow_edge_gates(gates: EdgeGates, values: Tensor) -> dict[tuple[str, int, int], float]:
    """By block, row and column: the edge's gate times its writer's, one edge at a time."""
    graph = gates.graph
    masks = gates.masks(values)
    nodes = torch.ones(graph.n_nodes)
    for site, mask in masks.nodes.items():
        nodes[graph.node_slices[site]] = mask
    return {
        (block, dst, src): float(masks.edges[block][dst, src] * nodes[source_of(graph, block, src)])
        for block, support in graph.edge_support.items()
        for dst, src in support.nonzero().tolist()
    }


@each_graph
@pytest.mark.parametrize("writers", [False, True])
def test_every_gate_stands_for_one_edge_or_one_writer(graph: Graph, writers: bool) -> None:
    gates = EdgeGates(graph, writers=writers)
    values = random(gates.n_gates)
    masks = gates.masks(values)
    assert len(masks.edges) == len(graph.edge_support)
    inside = [masks.edges[block][support] for block, support in graph.edge_support.items()]
    found = torch.cat([*inside, *masks.nodes.values()])
    assert torch.equal(found, values)
    sources = {
        source_of(graph, block, src)
        for block, support in graph.edge_support.items()
        for src in range(support.shape[1])
    }
    gated = [n for site in masks.nodes for n in range(graph.n_nodes)[graph.node_slices[site]]]
    assert gated == (sorted(sources) if writers else [])


@each_graph
@pytest.mark.parametrize("writers", [False, True])
def test_edges_are_counted_and_ranked_with_the_gates_of_their_writers(
    graph: Graph, writers: bool
) -> None:
    gates, offset = EdgeGates(graph, writers=writers), HardConcrete().offset
    values = random(gates.n_gates)
    slow = slow_edge_gates(gates, values)
    torch.testing.assert_close(float(gates.kept(values)), sum(slow.values()), rtol=1e-5, atol=0)
    log_alpha = 6 * random(gates.n_gates, 1) - 3
    both_open = slow_edge_gates(gates, (log_alpha.double() + offset).sigmoid())
    scores = gates.scores(log_alpha, offset).edges
    assert scores is not None
    for (block, dst, src), p in both_open.items():
        expected = math.log(p / (1 - p)) - offset
        assert float(scores[block][dst, src]) == pytest.approx(expected, abs=1e-5)


def test_without_gates_of_writers_the_scores_are_log_alpha_itself() -> None:
    graph = GRAPHS["channel"]
    log_alpha = 200 * random(graph.n_edges) - 100
    scores = EdgeGates(graph).scores(log_alpha, 1.6)
    assert list(scores.by_name().values()) == log_alpha.tolist()


def test_ranks_with_gates_of_writers_keep_apart_what_is_far_out() -> None:
    graph = GRAPHS["component"]
    gates = EdgeGates(graph, writers=True)
    log_alpha = torch.cat(
        [torch.linspace(-90, 30, gates.n_edges), torch.full((gates.n_gates - gates.n_edges,), 40.0)]
    )
    edges = gates.scores(log_alpha, 1.6).edges
    assert edges is not None
    assert bool((gates.flat(edges).diff() > 0).all())


# Where gates start.


def at_start(graph: Graph, model: Any, **settings: Any) -> dict[str, float]:
    """The log alphas before any step."""
    method = EdgePruning(**({"n_steps": 1, "learning_rate": 0.0, "initial_std": 0.0} | settings))
    found = method.discover(model, graph, TASK, ablation=InterchangeAblation())
    return found.scores.by_name()


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_gates_start_in_the_order_of_edge_scores_by_absolute_value(kind: str) -> None:
    model, graph = tiny_problem(kind)
    scores = Scores(
        graph,
        edges={
            block: random(support.numel(), 3).view(support.shape) - 0.5
            for block, support in graph.edge_support.items()
        },
    )
    started = at_start(graph, model, initial=scores, initial_mean=4.0, initial_spread=3.0)
    sizes = {name: abs(score) for name, score in scores.by_name().items()}
    ranks = {size: rank for rank, size in enumerate(sorted(set(sizes.values())))}
    for name, size in sizes.items():
        expected = 1 + 3 * ranks[size] / (len(ranks) - 1)
        assert started[name] == pytest.approx(expected, abs=1e-5)


def test_an_edge_takes_the_lower_of_its_ends_node_scores() -> None:
    model, graph = tiny_problem("channel")
    nodes = Scores(graph, nodes=graph.unflatten(random(graph.n_nodes)))
    started = at_start(graph, model, initial=nodes)
    by_node = nodes.by_name()
    lower = {name: min(by_node[end] for end in name.split("->")) for name in started}
    order = sorted(lower, key=lower.__getitem__)
    levels = [started[name] for name in order]
    assert levels == sorted(levels)
    assert (min(levels), max(levels)) == pytest.approx((2, 10))
    tied = {lower[name]: started[name] for name in order}
    assert all(started[name] == tied[lower[name]] for name in order)


def test_gates_start_in_the_order_that_a_method_finds() -> None:
    model, graph = tiny_problem("component")
    method = AttributionPatching(objective=TaskLoss())
    found = method.discover(model, graph, TASK, ablation=InterchangeAblation())
    by_method = at_start(graph, model, initial=method)
    assert by_method == at_start(graph, model, initial=found.scores)
    assert len(set(by_method.values())) > graph.n_edges // 2


def test_the_passes_of_the_initial_method_are_counted() -> None:
    model, graph = tiny_problem("component")
    first = AttributionPatching().discover(model, graph, TASK, ablation=ZeroAblation()).cost

    def cost(**settings: Any) -> Any:
        method = EdgePruning(**(SHORT | settings))
        return method.discover(model, graph, TASK, ablation=ZeroAblation()).cost

    alone, both = cost(), cost(initial=AttributionPatching())
    assert both.forward_passes == alone.forward_passes + first.forward_passes
    assert both.backward_passes == alone.backward_passes + first.backward_passes


def test_initial_scores_of_another_graph_are_refused() -> None:
    model, graph = tiny_problem("component")
    other = GRAPHS["component"]
    scores = Scores(other, edges={"edges": torch.rand(other.block_shapes["edges"])})
    with pytest.raises(ValueError, match="initial scores are of another graph"):
        EdgePruning(initial=scores).discover(model, graph, TASK, ablation=ZeroAblation())


# What is learned.


def two_steps_by_hand(kind: str, writers: bool, expected_l0: bool) -> Scores:
    """Scores after two steps, by autograd through the whole loss and Adam written out."""
    model, graph = tiny_problem(kind)
    gates, gate = EdgeGates(graph, writers=writers), HardConcrete()
    generator = torch.Generator().manual_seed(3)
    log_alpha = 0.5 + torch.randn(gates.n_gates, generator=generator)
    multipliers = torch.zeros(2)
    means = [(torch.zeros_like(x), torch.zeros_like(x)) for x in (log_alpha, multipliers)]
    order = None
    for step in range(2):
        log_alpha.requires_grad_()
        multipliers.requires_grad_()
        u = 1e-6 + (1 - 2e-6) * torch.rand(gates.n_gates, generator=generator)
        s = ((u / (1 - u)).log() + log_alpha).div(2 / 3).sigmoid()
        drawn = (1.2 * s - 0.1).clamp(0, 1)
        if order is None:
            order = torch.randperm(10, generator=generator)
        batch = TASK.train[order[4 * step : 4 * step + 4]]
        with patched(model, gates.masks(drawn), ablation=InterchangeAblation(), prompts=batch):
            loss = NegatedLogitDifference()(answer_logits(model, batch), batch).mean()
        counted = gate.probability_open(log_alpha) if expected_l0 else drawn
        nodes = torch.ones(graph.n_nodes)
        for site, mask in gates.masks(counted).nodes.items():
            nodes = torch.cat(
                [
                    nodes[: graph.node_slices[site].start],
                    mask,
                    nodes[graph.node_slices[site].stop :],
                ]
            )
        kept = torch.zeros(())
        for block, mask in gates.masks(counted).edges.items():
            kept = kept + (mask * nodes[graph.ends[block].src])[graph.edge_support[block]].sum()
        excess = 1 - kept / graph.n_edges - 0.9 * step / 2
        loss = loss + multipliers[0] * excess + multipliers[1] * excess**2
        gradients = torch.autograd.grad(loss, [log_alpha, multipliers])
        with torch.no_grad():
            for parameter, gradient, (m, v), sign in zip(
                (log_alpha, multipliers), gradients, means, (-1, 1), strict=True
            ):
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.999).add_(0.001 * gradient**2)
                unbiased = (v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                rate = (step + 1) / 2  # a warm-up of two steps
                parameter += sign * 0.25 * rate * (m / (1 - 0.9 ** (step + 1))) / unbiased
        log_alpha, multipliers = log_alpha.detach(), multipliers.detach()
    return gates.scores(log_alpha, gate.offset)


@pytest.mark.parametrize("kind", ["component", "channel"])
@pytest.mark.parametrize("expected_l0", [True, False])
@pytest.mark.parametrize("writers", [True, False])
def test_steps_follow_the_formulas(kind: str, expected_l0: bool, writers: bool) -> None:
    settings: dict[str, Any] = {
        "objective": NegatedLogitDifference(),
        "target_sparsity": 0.9,
        "target_warmup_fraction": 1.0,
        "n_steps": 2,
        "warmup_fraction": 1.0,
        "learning_rate": 0.25,
        "multiplier_learning_rate": 0.25,
        "writer_gates": writers,
        "expected_l0": expected_l0,
    }
    found = discover(kind, seed=3, **settings).scores.by_name()
    assert found == pytest.approx(two_steps_by_hand(kind, writers, expected_l0).by_name(), abs=2e-3)


PLANTED = [
    "dense, component, interchange",
    "dense, component, mean",
    "sparse, channel, interchange",
]


@pytest.mark.slow
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


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_the_target_rises_linearly_and_stays(kind: str) -> None:
    found = discover(kind, n_steps=8, target_sparsity=0.8, target_warmup_fraction=0.5)
    targets = [row["target"] for row in found.history]
    assert targets == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8])


def test_gates_and_multipliers_do_not_decay_unless_asked_to() -> None:
    """In the first step the multipliers are 0 and gates this far open have no gradient."""
    model, graph = tiny_problem("component")
    settings = {"initial_mean": 40.0, "learning_rate": 0.1}
    assert set(at_start(graph, model, **settings).values()) == {40.0}
    decayed = at_start(graph, model, weight_decay=0.5, **settings)
    assert list(decayed.values()) == pytest.approx([40 * (1 - 0.1 * 0.5)] * graph.n_edges)


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_gates_are_float32_in_a_bfloat16_model(kind: str) -> None:
    """A small step from log alpha 4 is lost in bfloat16, whose next number below is 3.98."""
    model, graph = tiny_problem(kind, dtype=torch.bfloat16)
    method = EdgePruning(n_steps=1, initial_mean=4.0, initial_std=0.0, learning_rate=1e-3)
    found = method.discover(model, graph, TASK, ablation=InterchangeAblation())
    distances = [abs(score - 4) for score in found.scores.by_name().values()]
    assert 5e-4 < max(distances) < 2e-3
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# Nothing but the seed decides.


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_same_seed_same_gates(kind: str) -> None:
    torch.manual_seed(0)
    first = discover(kind, seed=1)
    torch.manual_seed(1)
    again, other = discover(kind, seed=1), discover(kind, seed=2)
    assert first.history == again.history
    assert first.scores.by_name() == again.scores.by_name()
    assert first.scores.by_name() != other.scores.by_name()


@pytest.mark.parametrize("kind", ["component", "channel"])
@pytest.mark.parametrize("objective", [KLDivergence(), TaskLoss()], ids=["KL", "task loss"])
def test_micro_batches_equal_the_whole_batch(kind: str, objective: Objective) -> None:
    model, graph = tiny_problem(kind, dtype=torch.float64)

    def run(**settings: Any) -> Discovery:
        settings = {**SHORT, "n_steps": 4, **settings}
        method = EdgePruning(objective=objective, **settings)
        return method.discover(model, graph, TASK, ablation=InterchangeAblation())

    whole = run()
    for size in (1, 3):
        parts = run(micro_batch_size=size)
        for row, same in zip(whole.history, parts.history, strict=True):
            assert same == pytest.approx(row, rel=1e-5)
        scores = list(whole.scores.by_name().values())
        assert list(parts.scores.by_name().values()) == pytest.approx(scores, rel=1e-4, abs=1e-4)


class Interrupted(Objective):
    """KL that raises after so many calls."""

    needs_full_logits: ClassVar[bool] = True

    def __init__(self, calls: int) -> None:
        self._calls = calls

    def __call__(self, logits: Any, prompts: Prompts, full_logits: Any = None) -> Any:
        self._calls -= 1
        if self._calls < 0:
            raise KeyboardInterrupt
        return KLDivergence()(logits, prompts, full_logits)

    def __repr__(self) -> str:
        return repr(KLDivergence())


@pytest.mark.parametrize("kind", ["component", "channel"])
@pytest.mark.parametrize("writers", [False, True])
def test_resuming_equals_running_through(kind: str, writers: bool, tmp_path: Path) -> None:
    path = tmp_path / "gates.ckpt"
    settings: dict[str, Any] = {
        "n_steps": 9,
        "checkpoint": str(path),
        "checkpoint_every": 2,
        "writer_gates": writers,
    }
    unsaved: dict[str, Any] = settings | {"checkpoint": None}
    through = discover(kind, **unsaved)
    for calls in (4, 5):  # one is for the identity; then steps 3, 4 and 3, 4, 5, 6 are reached
        with pytest.raises(KeyboardInterrupt):
            discover(kind, **settings, objective=Interrupted(calls))
    resumed = discover(kind, **settings)
    again = discover(kind, **settings)  # has ended: takes no step
    for found in (resumed, again):
        assert found.history == through.history
        assert found.scores.by_name() == through.scores.by_name()
    assert resumed.cost.backward_passes == 9 - 6
    assert again.cost.backward_passes == 0
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "its seed is 0, here it is 1"),
        ({"learning_rate": 0.1}, "its learning_rate is 0.2, here it is 0.1"),
        ({"kind": "channel"}, "its graph is"),
        ({"task": Task("other", train=tiny.prompts(10, seed=9))}, "its objective with all gates"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"kind": "component", "checkpoint": str(tmp_path / "gates.ckpt")}
    discover(**settings)
    with pytest.raises(ValueError, match=f"of another run: {message}"):
        discover(**(settings | change))


def test_a_checkpoint_with_another_ablation_is_refused(tmp_path: Path) -> None:
    model, graph = tiny_problem("component")
    method = EdgePruning(**SHORT, checkpoint=str(tmp_path / "gates.ckpt"))
    method.discover(model, graph, TASK, ablation=InterchangeAblation())
    with pytest.raises(ValueError, match="objective with all gates half open"):
        method.discover(model, graph, TASK, ablation=MeanAblation(tokens=TASK.train.clean))


def test_a_checkpoint_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        discover("component", checkpoint=str(tmp_path / "missing" / "gates.ckpt"))


# At the door.


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_the_model_is_left_as_found_when_it_is_interrupted(kind: str) -> None:
    model, graph = tiny_problem(kind)
    next(iter(model.parameters())).requires_grad_(False)
    before, needed = state(model), [p.requires_grad for p in model.parameters()]
    method = EdgePruning(**SHORT, objective=Interrupted(3))
    with pytest.raises(KeyboardInterrupt):
        method.discover(model, graph, TASK, ablation=InterchangeAblation())
    assert state(model) == before
    assert [p.requires_grad for p in model.parameters()] == needed
    assert all(p.grad is None for p in model.parameters())


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
