"""ACDC against the loop over single edges, and against a reference program's circuits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.baselines import AttributionPatching
from sparse_lens.baselines.acdc import ACDC
from sparse_lens.baselines.acdc.order import sublayers_from_the_output
from sparse_lens.baselines.acdc.pruning_run import Rule, Run
from sparse_lens.baselines.acdc.scores import scores_of_runs
from sparse_lens.baselines.acdc.targets import EdgeBudget, LossTarget, bisect
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference, Objective, TaskLoss
from sparse_lens.patching import run_circuit
from sparse_lens.target import Target
from sparse_lens.task import Prompts, Task
from tests import planted
from tests.patching import tiny
from tests.patching.test_fixtures import component_reference

PROMPTS = tiny.prompts(4, padded=True)
TASK = Task("random", train=PROMPTS, validation=tiny.prompts(3, seed=5))
INTERCHANGE = InterchangeAblation()
SMALL = {"n_heads": 2, "dtype": torch.float64}


def one_at_a_time(
    model: Any,
    graph: Graph,
    ablation: Any,
    threshold: float,
    *,
    objective: Objective | None = None,
    absolute: bool = False,
    start: Circuit | None = None,
    prompts: Prompts = PROMPTS,
) -> Circuit:
    """ACDC as in its paper: remove an edge, run, put it back if that changed too much."""
    objective = objective or KLDivergence()
    kept = set((start or Circuit.full(graph)).edge_names())
    free = None if start is None else dict(start.node_masks)

    def circuit() -> Circuit:
        edges = Circuit.from_edge_names(graph, kept).edge_masks or {}
        return Circuit.from_edge_masks(graph, dict(edges), node_masks=free)

    @torch.no_grad()
    def loss() -> float:
        rows = torch.arange(len(prompts))
        logits = run_circuit(model, circuit(), prompts, ablation=ablation)
        full = model(prompts.clean)[rows, prompts.answer_positions]
        return float(objective(logits[rows, prompts.answer_positions], prompts, full).mean())

    def reaches_output(name: str) -> bool:
        """Over kept edges; a head also through the others of its layer, where these are coupled."""
        if isinstance(graph, ChannelGraph):
            return True  # such an edge changes nothing, and goes when it is tested
        reader = node_of(name.split("->")[1])
        seen = {"logits"}
        for edge in edges_in_order(graph):  # an edge's reader comes before those of its writer
            writer, _, end = edge.partition("->")
            if edge in kept and node_of(end) in seen:
                seen.add(writer)
                if anatomy_of(model).heads_are_coupled and ".h" in writer:
                    layer = writer.split(".")[0]
                    seen |= {f"{layer}.h{head}" for head in range(graph.n_heads)}
        return reader in seen

    before = loss()
    for name in edges_in_order(graph):
        if name not in kept:
            continue
        kept.remove(name)
        if not reaches_output(name):
            continue
        after = loss()
        if (abs(after - before) if absolute else after - before) < threshold:
            before = after
        else:
            kept.add(name)
    return circuit()


def node_of(reader: str) -> str:
    return reader.partition("<")[0]


def edges_in_order(graph: Graph) -> list[str]:
    """The order of the reference, written out once more."""
    if isinstance(graph, ChannelGraph):
        blocks = list(graph.edge_support)[::-1]
        return [
            graph.edge_name(block, row, writer)
            for block in blocks
            for row, sources in enumerate(graph.edge_support[block])
            for writer in reversed(sources.nonzero().flatten().tolist())
        ]
    assert isinstance(graph, ComponentGraph)
    readers = ["logits"]
    for layer in reversed(range(graph.n_layers)):
        readers += [f"m{layer}"] * (not graph.attn_only)
        for letter in "vkq":
            readers += [f"a{layer}.h{head}<{letter}>" for head in range(graph.n_heads)]
    every = set(graph.edge_names())
    names = (f"{writer}->{reader}" for reader in readers for writer in reversed(graph.writers))
    return [name for name in names if name in every]


# The reference.


@pytest.mark.parametrize("threshold", ["0.0003", "0.001", "0.003"])
def test_reference_circuits(fixtures: Path, threshold: str) -> None:
    known = json.loads((fixtures / "acdc" / "ln_gelu.json").read_text())["results"][threshold]
    model, prompts, _ = component_reference(fixtures, "ln_gelu")
    graph = ComponentGraph.from_model(model)
    method = ACDC(thresholds=float(threshold))
    found = method.discover(model, graph, Task("reference", prompts), ablation=INTERCHANGE)
    assert set(found.circuits[0].edge_names()) == set(known["edges"])
    assert found.history[0]["objective"] == pytest.approx(known["kl"], abs=1e-6)
    assert found.history[0]["margin"] == pytest.approx(known["margin"], abs=1e-6)


def test_reference_order(fixtures: Path) -> None:
    known = json.loads((fixtures / "acdc" / "ln_gelu.json").read_text())["order"]
    model, _, _ = component_reference(fixtures, "ln_gelu")
    graph = ComponentGraph.from_model(model)
    assert edges_in_order(graph) == known
    rows = [row for _, rows in sublayers_from_the_output(graph) for row in rows]
    assert [graph.readers[row] for row in rows] == list(
        dict.fromkeys(name.split("->")[1] for name in known)
    )


# The loop.


@pytest.mark.parametrize(
    ("make", "name", "changes"),
    [
        (tiny.dense, "LN", SMALL),
        (tiny.dense, "parallel", SMALL),
        (tiny.dense, "grouped queries", {**SMALL, "n_key_value_heads": 1}),
        (tiny.dense, "attention only", SMALL),
        (tiny.dense, "Gemma 2", {**SMALL, "n_layers": 1}),
        (tiny.sparse, "AbsTopK on writes", {"n_head": 2, "n_layer": 1, "dtype": torch.float64}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("threshold", [0.01, 0.1])
def test_circuit_of_the_loop(make: Any, name: str, changes: Any, threshold: float) -> None:
    model = make(name, **changes)
    graph = ComponentGraph.from_model(model)
    expected = one_at_a_time(model, graph, INTERCHANGE, threshold)
    assert 0 < expected.n_edges < graph.n_edges
    found = ACDC(thresholds=threshold).discover(model, graph, TASK, ablation=INTERCHANGE)
    assert found.circuits[0] == expected


@pytest.mark.parametrize(
    ("ablation", "options"),
    [
        (ZeroAblation(), {"absolute": True}),
        (MeanAblation(tokens=PROMPTS.corrupted), {"objective": NegatedLogitDifference()}),
    ],
    ids=["zero, absolute", "mean, logit difference"],
)
def test_loop_with_other_ablations_and_objectives(ablation: Any, options: Any) -> None:
    model = tiny.dense("rotary", **SMALL, n_layers=1)
    graph = ComponentGraph.from_model(model)
    expected = one_at_a_time(model, graph, ablation, 0.05, **options)
    assert 0 < expected.n_edges < graph.n_edges
    method = ACDC(thresholds=0.05, **options)
    assert method.discover(model, graph, TASK, ablation=ablation).circuits[0] == expected


def test_refining_a_circuit_in_small_batches() -> None:
    model = tiny.dense("LN", **SMALL)
    graph = ComponentGraph.from_model(model)
    start = tiny.random_edges(graph, 0.5, 0)
    expected = one_at_a_time(model, graph, INTERCHANGE, 0.02, start=start)
    assert 0 < expected.n_edges < start.n_edges
    for max_tokens in (1, 40, 2**13):  # one prompt and one removal; a few; all at once
        method = ACDC(thresholds=0.02, start=start, max_tokens=max_tokens)
        found = method.discover(model, graph, TASK, ablation=INTERCHANGE)
        assert found.circuits[0] == expected
    assert found.history[0]["passes"] < found.history[0]["edges_tested"]


def test_refining_a_circuit_of_a_channel_graph() -> None:
    model = tiny.sparse("plain", n_layer=1, n_head=2, d_model=6, d_mlp=4, dtype=torch.float64)
    graph = ChannelGraph.from_model(model)
    start = tiny.random_nodes(graph, 0.7, 1)
    edges = {block: start.edge_mask(block) for block in graph.edge_support}
    written_out = Circuit.from_edge_masks(graph, edges, node_masks=dict(start.node_masks))
    expected = one_at_a_time(model, graph, ZeroAblation(), 0.01, start=written_out)
    assert 0 < expected.n_edges < start.n_edges
    method = ACDC(thresholds=0.01, start=start)
    assert method.discover(model, graph, TASK, ablation=ZeroAblation()).circuits[0] == expected


def test_hooks_of_others_act_on_the_circuit() -> None:
    """On it, and on the model that it is compared with."""
    model: Any = tiny.dense("LN", **SMALL)
    graph = ComponentGraph.from_model(model)
    method = ACDC(thresholds=0.02)
    plain = method.discover(model, graph, TASK, ablation=InterchangeAblation())
    model.add_perma_hook("blocks.0.hook_mlp_out", lambda value, hook: 0 * value)
    hooked = method.discover(model, graph, TASK, ablation=InterchangeAblation())
    model.reset_hooks(including_permanent=True)
    with torch.no_grad():  # without its output the MLP is as good as ablated to zero
        model.blocks[0].mlp.W_out.zero_()
        model.blocks[0].mlp.b_out.zero_()
    silent = method.discover(model, graph, TASK, ablation=InterchangeAblation())
    assert hooked.circuits == silent.circuits
    assert hooked.circuits != plain.circuits


@pytest.mark.parametrize("name", ["LN", "pythia"])
@pytest.mark.parametrize(("scale", "absolute"), [(0.5, False), (1.5, False), (1.5, True)])
def test_few_and_many_edges_that_stay(name: str, scale: float, absolute: bool) -> None:
    """On prompts of which only the end is corrupted."""
    model: Any = tiny.dense(name, n_heads=2, dtype=torch.float64)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".W_" in key:
                parameter *= scale
    graph = ComponentGraph.from_model(model)
    corrupted = torch.cat([PROMPTS.clean[:, :2], PROMPTS.corrupted[:, 2:]], dim=1)
    prompts = replace(PROMPTS, corrupted=corrupted)
    options: Any = {"absolute": absolute}
    expected = one_at_a_time(model, graph, INTERCHANGE, 0.01, prompts=prompts, **options)
    assert 0 < expected.n_edges < graph.n_edges
    method = ACDC(thresholds=0.01, **options)
    found = method.discover(model, graph, Task("late", prompts), ablation=INTERCHANGE)
    assert found.circuits[0] == expected
    assert found.history[0]["passes"] < found.history[0]["edges_tested"]


# Thresholds.


@pytest.mark.parametrize("name", [name for name in planted.problems() if "component" in name])
def test_exactly_the_planted_edges_stay(name: str) -> None:
    problem = planted.problems()[name]
    found = ACDC(thresholds=0.05).discover(
        problem.model, problem.graph, planted.task(), ablation=problem.ablation
    )
    assert found.circuits == (problem.circuit,)
    assert found.circuit == problem.circuit


@pytest.mark.parametrize("name", ["dense, channel, interchange", "sparse, channel, interchange"])
def test_exactly_the_planted_channels_stay(name: str) -> None:
    """Of more that attribution picked; one weight leads from each of them to the next."""
    problem = planted.problems()[name]
    ranked = AttributionPatching().discover(
        problem.model, problem.graph, planted.task(), ablation=problem.ablation
    )
    start = ranked.at(n_nodes=problem.circuit.n_nodes + 8)
    found = ACDC(thresholds=0.05, start=start).discover(
        problem.model, problem.graph, planted.task(), ablation=problem.ablation
    )
    touched = {end for edge in found.circuit.edge_names() for end in edge.split("->")}
    final = {name for name in problem.names if name.startswith("final_resid")}  # no edge's end
    assert touched | final == set(problem.names)
    assert set(found.circuit.edge_names()) <= set(problem.circuit.edge_names())


def test_searches_and_what_is_chosen() -> None:
    model = tiny.dense("LN", **SMALL, n_layers=1)
    graph = ComponentGraph.from_model(model)

    def discover(**options: Any) -> Any:
        return ACDC(**options).discover(model, graph, TASK, ablation=INTERCHANGE)

    found = discover(thresholds=(0.1, 0.001), search_for=EdgeBudget(8), n_bisections=2)
    tried = [row["threshold"] for row in found.history]
    assert tried == sorted(tried)
    assert {0.1, 0.001} < set(tried)
    assert found.at(n_edges=8).n_edges <= 8
    sizes = [circuit.n_edges for circuit in found.circuits]
    assert sizes == [int(row["n_edges"]) for row in found.history]

    found = discover(search_for=LossTarget(0.3), target=Target(100.0), n_bisections=2)
    validation = TASK.split("validation")
    full = circuit_logits_of(model, Circuit.full(graph))
    losses = [
        float(KLDivergence()(circuit_logits_of(model, c), validation, full).mean())
        for c in found.circuits
    ]
    assert min(losses) <= 0.3 < max(losses)
    assert found.circuit.n_edges == min(circuit.n_edges for circuit in found.circuits)
    assert found.chosen.met_target
    never = discover(thresholds=0.01, target=Target(1e-9)).chosen
    assert (never.met_target, never.circuit) == (False, Circuit.full(graph))


def test_the_chosen_circuit_meets_its_target_by_a_margin() -> None:
    model = tiny.dense("LN", **SMALL, n_layers=1)
    graph = ComponentGraph.from_model(model)
    validation = TASK.split("validation")

    def losses(circuit: Circuit) -> torch.Tensor:
        return TaskLoss()(circuit_logits_of(model, circuit), validation)

    def discover(**options: Any) -> Any:
        return ACDC(**options).discover(model, graph, TASK, ablation=INTERCHANGE)

    thresholds = (0.001, 0.01, 0.03, 0.1, 0.3)
    circuits = sorted(discover(thresholds=thresholds).circuits, key=lambda c: c.n_edges)
    circuits.append(Circuit.full(graph))
    for margin in (0.0, 1.0, 3.0):
        bounds = [float(losses(c).mean() + margin * losses(c).std() / 3**0.5) for c in circuits]
        for target in bounds:
            found = discover(thresholds=thresholds, target=Target(target + 1e-9, margin=margin))
            first = next(c for c, b in zip(circuits, bounds, strict=True) if b <= target)
            assert found.circuit.n_edges == first.n_edges
            assert found.chosen.met_target
        # Where none does by the margin, the target itself counts.
        below = min(bounds) - 1e-6
        meeting = [c for c in circuits if float(losses(c).mean()) <= below]
        found = discover(thresholds=thresholds, target=Target(below, margin=margin)).chosen
        assert found.met_target == bool(meeting)
        assert found.circuit.n_edges == (meeting or circuits[-1:])[0].n_edges
        # The search for a threshold looks for such a circuit, too.
        found = discover(target=Target(bounds[-1] + 0.05, margin=margin), n_bisections=2)
        loss = losses(found.circuit)
        assert float(loss.mean() + margin * loss.std() / 3**0.5) <= bounds[-1] + 0.05


def circuit_logits_of(model: Any, circuit: Circuit) -> torch.Tensor:
    rows, prompts = torch.arange(3), TASK.split("validation")
    with torch.no_grad():
        logits = run_circuit(model, circuit, prompts, ablation=INTERCHANGE)
    return logits[rows, prompts.answer_positions]


def test_bisection() -> None:
    tried: list[float] = []

    def run(threshold: float) -> tuple[bool, int]:
        tried.append(threshold)
        return threshold < 0.5, round(100 / (1 + threshold))

    bisect(run, n_bisections=6)
    assert tried[:3] == pytest.approx([0.01, 0.1, 1.0])
    assert min(abs(threshold - 0.5) for threshold in tried) < 0.05
    tried.clear()
    bisect(lambda threshold: (tried.append(threshold) or True, 5), n_bisections=3)
    assert tried[-1] == pytest.approx(1e4)  # it never turns


def test_scores_rank_by_threshold_then_change() -> None:
    graph = ComponentGraph.from_model(tiny.dense("LN", n_layers=1, n_heads=1))
    names = ["input->logits", "m0->logits", "a0.h0->m0", "input->m0", "input->a0.h0<v>"]
    start = Circuit.from_edge_names(graph, names)

    def run_of(threshold: float, kept: list[str], changes: dict[str, float]) -> Run:
        return Run(
            rule=Rule(threshold, False),
            circuit=Circuit.from_edge_names(graph, kept),
            loss=0.0,
            changes={graph.parse_edge(name): change for name, change in changes.items()},
            margin=0.0,
            n_passes=1,
        )

    low = run_of(0.1, names[:3], dict(zip(names[:4], [0.3, 0.9, 0.2, 0.05], strict=True)))
    high = run_of(0.5, names[1:2], {names[0]: 0.4, names[1]: 0.6})
    scores = scores_of_runs(start, [high, low]).by_name()
    ranked = [names[1], names[0], names[2], names[3], names[4]]
    assert [scores[name] for name in ranked] == [5, 4, 3, 2, 1]
    assert scores["input->a0.h0<q>"] == 0


# Bad input.


def test_errors() -> None:
    for thresholds in (0.0, -1.0, (0.1, 0.0), float("nan"), float("inf"), ()):
        with pytest.raises(ValueError, match="thresholds"):
            ACDC(thresholds=thresholds)
    assert ACDC(thresholds=[0.1, 0.2]) == ACDC(thresholds=(0.1, 0.2))
    with pytest.raises(ValueError, match="max_tokens"):
        ACDC(max_tokens=0)
    with pytest.raises(ValueError, match="budget"):
        EdgeBudget(-1)
    model = tiny.sparse("plain")
    channels = ChannelGraph.from_model(model)
    with pytest.raises(ValueError, match="pass start="):
        ACDC().discover(model, channels, TASK, ablation=ZeroAblation())
    graph = ComponentGraph.from_model(model)
    unknown = Task("unknown", replace(PROMPTS, clean=PROMPTS.clean + 100))
    with pytest.raises(ValueError, match="vocabulary"):
        ACDC().discover(model, graph, unknown, ablation=ZeroAblation())
    with pytest.raises(ValueError, match="starting circuit belongs to"):
        ACDC(start=Circuit.full(channels)).discover(model, graph, TASK, ablation=ZeroAblation())
    with pytest.raises(ValueError, match="no validation split"):
        ACDC().discover(model, graph, Task("train", PROMPTS), ablation=ZeroAblation())
