"""ACDC against the loop over single edges, and against a reference program's circuits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.baselines.acdc import ACDC
from sparse_lens.baselines.acdc_order import sublayers_from_the_output
from sparse_lens.baselines.acdc_run import Rule, Run
from sparse_lens.baselines.acdc_scores import scores_of_runs
from sparse_lens.baselines.acdc_targets import EdgeBudget, LossTarget, bisect
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference, Objective, TaskLoss
from sparse_lens.patching import run_circuit
from sparse_lens.patching.writers import heads_are_coupled
from sparse_lens.search import circuit_logits
from sparse_lens.task import Prompts, Task
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
        """Is the edge on a path to the output, whether or not the input reaches it?"""
        if isinstance(graph, ComponentGraph):
            layer_heads = name.split("->")[1].split(".")[0] + "."
            reader = name.split("->")[1].partition("<")[0]
            heads_together = reader != name.split("->")[1] and heads_are_coupled(model)
            frontier, seen = ["logits"], {"logits"}
            while frontier:
                node = frontier.pop()
                writers = {e.split("->")[0] for e in kept if e.split("->")[1].split("<")[0] == node}
                frontier += sorted(writers - seen)
                seen |= writers
            return (
                reader in seen
                or heads_together
                and any(other.startswith(layer_heads) for other in seen)
            )
        return True

    for name in edges_in_order(graph):
        if name not in kept:
            continue
        if not reaches_output(name):
            kept.remove(name)
            continue
        before = loss()
        kept.remove(name)
        change = loss() - before
        if (abs(change) if absolute else change) >= threshold:
            kept.add(name)
    return circuit()


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
