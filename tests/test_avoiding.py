"""Methods that must do without some nodes, against a search by hand and a model of two ways."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from sparse_lens.ablation import Ablation, InterchangeAblation, MeanAblation
from sparse_lens.avoiding import Avoiding
from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.circuit import Circuit
from sparse_lens.conditions import OtherValues, PartlyLive
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.method import Method
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import AlwaysAblated, bind, circuit_logits, run_circuit
from sparse_lens.ranking_method import Ranking, RankingMethod
from sparse_lens.scores import Scores
from sparse_lens.target import Target
from tests import two_ways
from tests.graphs.tiny import random_edge_circuit, random_node_circuit
from tests.patching import tiny

PRUNING = NodePruning(k_coef=1e-2, n_steps=50)


@dataclass(frozen=True)
class InOrder(RankingMethod):
    """Ranks the nodes in the graph's order, the last ones first."""

    objective: Objective = TaskLoss()
    target: Target = field(default_factory=lambda: Target(margin=0.0))

    def rank(self, bound: Any, task: Any, *, seed: int, meter: Any) -> Ranking:
        graph = bound.graph
        nodes = graph.unflatten(torch.arange(graph.n_nodes).float() + 1)
        return Ranking(Scores.of_nodes(graph, nodes))


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
@pytest.mark.parametrize("make", [random_node_circuit, random_edge_circuit])
@pytest.mark.parametrize("ablation", [MeanAblation, InterchangeAblation])
def test_nodes_are_ablated_in_every_circuit(graph_of: Any, make: Any, ablation: Any) -> None:
    model, prompts = tiny.sparse("plain"), tiny.prompts()
    graph = graph_of(model)
    bound = bind(model, graph, ablation(tokens=prompts.corrupted))
    circuit = make(graph, 0.6, seed=0)
    never = torch.zeros(graph.n_nodes, dtype=torch.bool)
    never[[3, 4, 5]] = True
    names = [name for i, name in enumerate(graph.node_names()) if never[i]]
    without = AlwaysAblated(model, graph, bound, never)
    kept = Circuit.from_node_names(graph, set(graph.node_names()) - set(names))
    if circuit.is_node_circuit:
        expected = Masks.of(circuit & kept)
    else:  # the gates of these nodes closed, beside the cut edges
        masks = Masks.of(circuit)
        gates = {s: mask * kept.node_masks[s] for s, mask in masks.nodes.items()}
        expected = Masks(graph, gates, masks.edges)
    logits = run_circuit(model, circuit, prompts, ablation=without)
    torch.testing.assert_close(logits, run_circuit(model, expected, prompts, ablation=bound))
    assert tiny.difference(logits, run_circuit(model, circuit, prompts, ablation=bound)) > 1e-4
    rows = [batch[1] for batch in without.batches(prompts, 2)]
    assert all(isinstance(each, AlwaysAblated) for each in rows)
    # Gates that are learned get no gradient there, also where no mask of theirs is given.
    gates = {
        name: torch.ones(shape, requires_grad=True) for name, shape in graph.site_shapes.items()
    }
    run_circuit(model, Masks(graph, gates, {}), prompts, ablation=without).square().sum().backward()
    gradient = graph.flatten(
        {n: torch.zeros(len(g)) if g.grad is None else g.grad for n, g in gates.items()}
    )
    assert not gradient[never].any()
    assert gradient[~never].any()
    logits = run_circuit(model, Masks(graph, {}, {}), prompts, ablation=without)
    torch.testing.assert_close(logits, run_circuit(model, kept, prompts, ablation=bound))


def test_nodes_are_ablated_under_every_condition_of_a_target() -> None:
    """Their values are then those of the condition, and no draw of it leaves them alive."""
    model, task = two_ways.model(), two_ways.task()
    graph, prompts = ChannelGraph.from_model(model), task.split("validation")
    never = torch.zeros(graph.n_nodes, dtype=torch.bool)
    never[::4] = True
    kept = Circuit.from_node_masks(graph, graph.unflatten(~never))
    bound = bind(model, graph, MeanAblation(tokens=task.train.clean))
    target = Target(1.0, under=(OtherValues(InterchangeAblation()), PartlyLive(share=0.9)))
    full = Circuit.full(graph)
    rows = target.bind(AlwaysAblated(model, graph, bound, never), prompts).losses(full)
    for row, ablation in zip(rows, (bound, InterchangeAblation(), bound, bound), strict=True):
        logits = circuit_logits(bind(model, graph, ablation), kept, prompts)
        torch.testing.assert_close(row, TaskLoss()(logits, prompts))
    none_pruned = circuit_logits(bound, full, prompts)
    assert not torch.allclose(rows[0], TaskLoss()(none_pruned, prompts))


def test_the_circuit_is_the_smallest_of_the_ranking_without_the_nodes() -> None:
    model, task = two_ways.model(), two_ways.task()
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, MeanAblation(tokens=task.train.clean))
    nodes = (f"final_resid:{two_ways.OUT_RIGHT}", "blocks.0.mlp_post:0")
    found = Avoiding(method=InOrder(), nodes=nodes, target=Target(margin=0.0)).discover(
        model, graph, task, ablation=bound
    )
    ranked = [name for name in reversed(list(graph.node_names())) if name not in nodes]
    validation = task.split("validation")
    for size in range(len(ranked)):
        expected = Circuit.from_node_names(graph, ranked[:size])
        loss = float(TaskLoss()(circuit_logits(bound, expected, validation), validation).mean())
        if loss <= 0.15:
            break
    assert found.chosen is not None
    assert found.chosen.met_target
    assert found.circuit == expected
    assert found.chosen.loss == pytest.approx(loss, abs=1e-6)
    assert found.at(n_nodes=5).node_names() == sorted(
        ranked[:5], key=list(graph.node_names()).index
    )


METHODS: list[RankingMethod] = [
    PRUNING,
    AttributionPatching(),
    NodePruning(k_coef=(3e-3, 1e-2), n_steps=40),
]


@pytest.mark.parametrize("method", METHODS, ids=["pruning", "attribution", "several k_coef"])
@pytest.mark.parametrize("side", ["LEFT", "RIGHT"])
def test_the_other_way_is_found(method: RankingMethod, side: str) -> None:
    model, task = two_ways.model(), two_ways.task()
    graph = ChannelGraph.from_model(model)
    ablation: Ablation = MeanAblation(tokens=task.train.clean)
    left = {
        f"blocks.0.mlp_in:{two_ways.LEFT}", "blocks.0.mlp_post:0", "blocks.0.mlp_post:1",
        f"blocks.0.mlp_out:{two_ways.OUT_LEFT}", f"final_resid:{two_ways.OUT_LEFT}",
    }  # fmt: skip
    right = {
        f"blocks.0.mlp_in:{two_ways.RIGHT}", "blocks.0.mlp_post:2", "blocks.0.mlp_post:3",
        f"blocks.0.mlp_out:{two_ways.OUT_RIGHT}", f"final_resid:{two_ways.OUT_RIGHT}",
    }  # fmt: skip
    forbidden, other = (left, right) if side == "LEFT" else (right, left)
    avoiding = Avoiding(method=method, nodes=tuple(sorted(forbidden)))
    found = avoiding.discover(model, graph, task, ablation=ablation)
    assert found.chosen is not None
    assert found.chosen.met_target
    names = set(found.circuit.node_names())
    assert not names & forbidden
    assert set(found.circuit.connected().node_names()) <= other
    both = Avoiding(method=method, nodes=tuple(sorted(left | right)))
    neither = both.discover(model, graph, task, ablation=ablation)
    assert neither.chosen is not None
    assert not neither.chosen.met_target
    assert avoiding.is_deterministic == method.is_deterministic


@pytest.mark.parametrize(
    ("method", "nodes", "message"),
    [
        (AttributionPatching(), ("a0.h0",), "nodes=True"),
        (EdgePruning(n_steps=1), ("a0.h0",), "scored edges"),
        (AttributionPatching(nodes=True), ("logits",), "no circuit can do without 'logits'"),
        (AttributionPatching(nodes=True), ("a0.h7",), "no node 'a0.h7'"),
    ],
)
def test_what_cannot_be_avoided_is_refused(method: Any, nodes: Any, message: str) -> None:
    model, task = two_ways.model(), two_ways.task()
    graph = ComponentGraph.from_model(model)
    avoiding: Method = Avoiding(method=method, nodes=nodes)
    with pytest.raises(ValueError, match=message):
        avoiding.discover(model, graph, task, ablation=InterchangeAblation())
