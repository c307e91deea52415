"""A circuit's inside beside the model's, against slow runs of one prompt at a time."""

import math
from itertools import chain
from typing import Any

import networkx as nx
import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ResampleAblation, ZeroAblation
from sparse_lens.circuit import Circuit
from sparse_lens.evals.growing_interchange import growing_interchange
from sparse_lens.evals.metrics import compare_logits, measure, model_logits
from sparse_lens.evals.questions import answer_positions, real_positions, value_agreements
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.patching import WithModelValues, bind, circuit_activations, patched, reference
from sparse_lens.patching.activations import activations
from tests import planted
from tests.evals import toy_comparison as toy
from tests.graphs.tiny import dense_model, random_edge_circuit, random_node_circuit

PROMPTS = toy.prompts(5, 9)
LENGTHS: Any = PROMPTS.lengths

each_graph = pytest.mark.parametrize(
    "graph_of", [ChannelGraph.from_model, ComponentGraph.from_model]
)
each_make = pytest.mark.parametrize("make", [random_node_circuit, random_edge_circuit])


def circuit_on(graph_of: Any, make: Any = random_node_circuit, **changes: Any) -> Any:
    """A bound ablation, and a random circuit that keeps the ends of a component graph."""
    model = toy.model(**changes)
    graph = graph_of(model)
    circuit = make(graph, 0.5, seed=1)
    if graph.kind == "component" and circuit.is_node_circuit:
        circuit |= Circuit.from_node_names(graph, ["input", "logits"])
    return bind(model, graph, MeanAblation()), circuit


def agreement(bound: Any, circuit: Circuit, where: Any, prompts: Any = PROMPTS) -> Any:
    return value_agreements(bound, circuit, prompts, {"": where})[""]


def slow_values(bound: Any, circuit: Circuit) -> list[Any]:
    """What all nodes are on each prompt alone, by the slow reference."""
    constants = dict(bound.values(PROMPTS))
    if bound.graph.kind == "component":
        constants = {name: value[:, None, None] for name, value in constants.items()}
    with torch.no_grad():
        return [
            reference.activations(bound.model, circuit, tokens[None], ablated=constants)
            for tokens in PROMPTS.clean
        ]


def slow_sums(graph: Any, model: Any, own: Any, name: str, tokens: Any) -> tuple[float, ...]:
    """Error, variance and squares of a node over tokens, by the formulas."""
    site, index = graph.parse_node(name)

    def vectors(values: Any) -> list[list[float]]:
        if graph.kind == "component":
            return [values[i][site][index, 0, pos].tolist() for i, pos in tokens]
        return [[float(values[i][site][0, pos, index])] for i, pos in tokens]

    error = variance = square = 0.0
    pairs = zip(zip(*vectors(model), strict=True), zip(*vectors(own), strict=True), strict=True)
    for xs, ys in pairs:  # of one channel, over all tokens
        mean = math.fsum(xs) / len(xs)
        variance += math.fsum((x - mean) ** 2 for x in xs)
        square += math.fsum(x**2 for x in xs)
        error += math.fsum((x - y) ** 2 for x, y in zip(xs, ys, strict=True))
    return error, variance, square


def leads_to_logits(circuit: Circuit, name: str) -> bool:
    """Over kept edges; there is no path of no edges."""
    network = nx.DiGraph(circuit.to_networkx())
    return name != "logits" and "logits" in nx.descendants(network, name)


@pytest.mark.parametrize("at_answers", [True, False])
@each_graph
@each_make
def test_unexplained_variance_is_that_of_the_formula(
    graph_of: Any, make: Any, at_answers: bool
) -> None:
    bound, circuit = circuit_on(graph_of, make, n_layer=2)
    where = answer_positions(PROMPTS) if at_answers else real_positions(PROMPTS)
    found = value_agreements(bound, circuit, PROMPTS, {"": where}, batch_size=3)[""]
    tokens = [
        (i, pos)
        for i, length in enumerate(LENGTHS.tolist())
        for pos in range(length - 1 if at_answers else 0, length)
    ]
    model, own = slow_values(bound, Circuit.full(bound.graph)), slow_values(bound, circuit)
    errors: dict[str, list[float]] = {}
    variances: dict[str, list[float]] = {}
    n_constant = 0
    leading = circuit.node_names()
    if circuit.graph.kind == "component":
        leading = [name for name in leading if leads_to_logits(circuit, name)]
        assert len(leading) < circuit.n_nodes
    # These are what they are, in any circuit.
    leading = [n for n in leading if n != "input" and not n.startswith("blocks.0.attn_in")]
    for name in leading:
        error, variance, square = slow_sums(bound.graph, model, own, name, tokens)
        if variance <= 1e-10 * square:
            n_constant += 1
            continue
        site, _ = bound.graph.parse_node(name)
        errors.setdefault(site, []).append(error)
        variances.setdefault(site, []).append(variance)
    assert len(errors) > 1
    assert found.by_site == pytest.approx(
        {site: sum(errors[site]) / sum(variances[site]) for site in errors}, rel=1e-3, abs=1e-6
    )
    all_errors, all_variances = ([*chain(*of.values())] for of in (errors, variances))
    assert found.fvu == pytest.approx(sum(all_errors) / sum(all_variances), rel=1e-4)
    of_nodes = sorted(e / v for e, v in zip(all_errors, all_variances, strict=True))
    assert found.median_fvu == pytest.approx(of_nodes[(len(of_nodes) - 1) // 2], rel=1e-3, abs=1e-6)
    assert found.n_constant == n_constant


def test_nodes_without_variance_count_in_no_fraction() -> None:
    """A neuron that is always 3 in the model, and something else in the circuit."""
    model = toy.model()
    mlp: Any = model.blocks[0].mlp
    with torch.no_grad():
        mlp.W_in[:, 1], mlp.b_in[1] = 0.0, 3.0
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, ZeroAblation())
    circuit = Circuit.from_node_names(graph, ["blocks.0.mlp_post:1"])
    found = agreement(bound, circuit, real_positions(PROMPTS))
    assert found.fvu is None
    assert found.median_fvu is None
    assert found.by_site == {}
    assert found.n_constant == 1
    with_another = circuit | Circuit.from_node_names(graph, ["blocks.0.attn_out:0"])
    found = agreement(bound, with_another, real_positions(PROMPTS))
    assert found.by_site.keys() == {"blocks.0.attn_out"}
    assert found.n_constant == 1


@pytest.mark.parametrize(
    ("model", "n_alone"),
    [
        (toy.model(n_layer=2, d_pos_emb=2), 6 + 3 * 2),
        (toy.model(n_layer=2, d_pos_emb=2, afrac=0.5, afrac_loctypes="attn_in,mlp_in"), 6),
        (dense_model(parallel_attn_mlp=True), 4 + 4),
        (dense_model(), 4),
    ],
)
def test_what_reads_the_embedding_alone_cannot_differ_and_is_left_out(
    model: Any, n_alone: int
) -> None:
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, InterchangeAblation())
    where = real_positions(PROMPTS)
    compared = agreement(bound, Circuit.full(graph), where).compared
    assert int((~compared).sum()) == n_alone
    alone = Circuit.from_node_masks(graph, graph.unflatten(~compared))
    in_circuit = circuit_activations(bound, alone, PROMPTS)
    in_model = activations(model, graph, PROMPTS.clean)
    for name, mask in alone.node_masks.items():
        assert torch.equal(in_circuit[name][..., mask], in_model[name][..., mask])
    none = agreement(bound, alone, where)
    assert none.fvu is None
    assert none.n_constant == 0


@pytest.mark.parametrize("name", [n for n in planted.problems() if "channel" in n])
def test_the_planted_circuit_has_the_models_inside_and_one_cut_off_has_not(name: str) -> None:
    problem = planted.problems()[name]
    bound = bind(problem.model, problem.graph, problem.ablation)
    prompts = planted.task().split("held_out")
    where = answer_positions(prompts)
    full = agreement(bound, Circuit.full(problem.graph), where, prompts)
    assert full.fvu == pytest.approx(0, abs=1e-9)
    right = agreement(bound, problem.circuit, where, prompts)
    assert right.fvu is not None
    assert right.fvu < 0.1
    steps = growing_interchange(bound, problem.circuit, prompts)
    assert [step.up_to for step in steps] == ["blocks.0", "blocks.1", "final_resid"]
    assert all(float(step.metrics.task_loss.mean()) < 0.05 for step in steps)
    # Without what step 3 moves, the end of the circuit knows nothing of the answer.
    cut_off = problem.without(f"blocks.1.attn_out:{planted.Y}")
    wrong = agreement(bound, cut_off, where, prompts)
    assert wrong.by_site["final_resid"] > 0.9
    steps = growing_interchange(bound, cut_off, prompts)
    losses = [float(step.metrics.task_loss.mean()) for step in steps]
    assert losses[0] > 0.5  # up to there the model's values do not help
    assert max(losses[1:]) < 0.05  # neurons of layer 1 are set right


def test_interchange_is_setting_the_nodes_by_hooks() -> None:
    bound, circuit = circuit_on(ChannelGraph.from_model, n_layer=2)
    model, graph = bound.model, bound.graph
    in_model = activations(model, graph, PROMPTS.clean)
    full_logits = model_logits(model, PROMPTS)

    def setting(site: Any) -> Any:
        mask = circuit.node_masks[site.name]

        def hook(value: Any, hook: Any) -> Any:
            channels = value.flatten(-2) if site.per_head else value
            return torch.where(mask, in_model[site.name], channels).view(value.shape)

        return site.hook_name, hook

    steps = growing_interchange(bound, circuit, PROMPTS, batch_size=4)
    own = measure(bound, circuit, PROMPTS)
    rows = torch.arange(len(PROMPTS))
    for step, n_layers in zip(steps, (1, 2, 3), strict=True):
        sites = [s for s in graph.sites.values() if (2 if s.layer is None else s.layer) < n_layers]
        with patched(model, circuit, ablation=bound), torch.no_grad():
            logits = model.run_with_hooks(PROMPTS.clean, fwd_hooks=[setting(s) for s in sites])
        expected = compare_logits(logits[rows, LENGTHS - 1], full_logits, PROMPTS)
        for metric, values in vars(expected).items():
            torch.testing.assert_close(
                getattr(step.metrics, metric), values, atol=1e-4, rtol=1e-4, msg=metric
            )
    assert float((steps[0].metrics.kl - own.kl).abs().max()) > 1e-3


@pytest.mark.parametrize("model", [toy.model(n_layer=2), dense_model()])
def test_interchange_on_the_component_graph_by_the_reference(model: Any) -> None:
    model.reference_tokens = torch.arange(40).reshape(5, 8) % 11
    graph = ComponentGraph.from_model(model)
    bound = bind(model, graph, MeanAblation())
    circuit = random_node_circuit(graph, 0.5, seed=1)
    circuit |= Circuit.from_node_names(graph, ["input", "logits", "a0.h1"])
    steps = growing_interchange(bound, circuit, PROMPTS, batch_size=4)
    constants = {name: v[:, None, None] for name, v in bound.values(PROMPTS).items()}
    with torch.no_grad():
        in_model = reference.activations(model, Circuit.full(graph), PROMPTS.clean)
    assert [step.up_to for step in steps] == ["embed", "blocks.0", "blocks.1"]
    for step, n_done in zip(steps, (1, 2, 3), strict=True):
        kept = {name: mask.clone() for name, mask in circuit.node_masks.items()}
        ablated = dict(constants)
        for name, site in graph.sites.items():
            done = name == "embed" if site.layer is None else site.layer + 1 < n_done
            if name != "logits" and done:
                mask = kept[name][:, None, None, None]
                ablated[name] = torch.where(mask, in_model[name], constants[name])
                kept[name][:] = False
        rest = Circuit.from_node_masks(graph, kept)
        with torch.no_grad():
            logits = reference.run_circuit(model, rest, PROMPTS.clean, ablated=ablated)
        at_answers = logits[torch.arange(len(PROMPTS)), LENGTHS - 1]
        expected = compare_logits(at_answers, model_logits(model, PROMPTS), PROMPTS)
        torch.testing.assert_close(step.metrics.kl, expected.kl, atol=1e-4, rtol=1e-4)


@each_graph
@pytest.mark.parametrize(
    "ablation",
    [ZeroAblation(), MeanAblation(per_position=True), InterchangeAblation(), ResampleAblation()],
)
def test_any_ablation_stands_where_no_model_value_does(graph_of: Any, ablation: Any) -> None:
    model = toy.model()
    graph = graph_of(model)
    bound = bind(model, graph, ablation).for_prompts(PROMPTS)
    nodes = torch.arange(graph.n_nodes) % 3 == 0
    its_ablation: Any
    for batch, its_ablation in WithModelValues(model, graph, bound, nodes).batches(PROMPTS, 4):
        full = activations(model, graph, batch.clean)
        assert isinstance(its_ablation, WithModelValues)
        others = its_ablation.others.values(batch)
        for name, values in its_ablation.values(batch).items():
            pos = batch.clean.shape[1]
            for index, is_models in enumerate(nodes[graph.node_slices[name]].tolist()):
                node = index if graph.kind == "component" else (..., index)
                expected = full[name][node]
                if not is_models:
                    other = others.get(name, torch.zeros_like(full[name]))[node]
                    if isinstance(ablation, MeanAblation):
                        other = other[:pos]
                    expected = other.expand(expected.shape)
                torch.testing.assert_close(values[node], expected)


def test_what_cannot_be_interchanged_is_refused() -> None:
    bound, circuit = circuit_on(ChannelGraph.from_model, random_edge_circuit)
    with pytest.raises(ValueError, match="pass a node circuit"):
        growing_interchange(bound, circuit, PROMPTS)
    nodes = torch.zeros(bound.graph.n_nodes, dtype=torch.bool)
    with pytest.raises(ValueError, match="pass prompts="):
        WithModelValues(bound.model, bound.graph, bound, nodes).values(None)
