"""Weights inside a component circuit, against edges of the channel graph counted name by name."""

import re

import pytest

from sparse_lens.circuit import Circuit
from sparse_lens.evals.compare import compare
from sparse_lens.evals.component_weights import ComponentWeights, component_weights
from sparse_lens.evals.report import report_html
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from tests.evals import toy_comparison as toy
from tests.evals.test_report import rows, text_of
from tests.evals.toy_comparison import BUDGETS, ByIndex, EdgesByIndex, Half
from tests.graphs.tiny import (
    config,
    dense_model,
    random_edge_circuit,
    random_node_circuit,
    sparse_model,
)

MODELS = {
    "sparse": lambda: sparse_model(d_mlp=5),
    "sparse, positions": lambda: sparse_model(d_pos_emb=2, n_layer=3),
    "dense": dense_model,
    "dense, parallel": lambda: dense_model(parallel_attn_mlp=True),
    "dense, attention only": lambda: dense_model(attn_only=True, n_layers=3),
}


def counted_by_name(circuit: Circuit, channels: ChannelGraph) -> int:
    """Every edge of the channel graph by itself: does an edge of the circuit need it?"""
    writers, readers = set(), set()
    for name in circuit.edge_names():
        writer, reader = name.split("->")
        writers.add(writer)
        readers.add(reader)
    total = 0
    for name in channels.edge_names():
        match = re.fullmatch(r"blocks\.(\d+)\.(\w+):(\d+)->blocks\.\d+\.(\w+):(\d+)", name)
        assert match is not None
        layer, source, src, destination, dst = match.groups()
        if destination in ("q", "k", "v"):
            total += f"a{layer}.h{int(dst) // channels.d_head}<{destination}>" in readers
        elif source == "v":
            total += f"a{layer}.h{int(src) // channels.d_head}" in writers
        elif destination == "mlp_post":
            total += f"m{layer}" in readers
        else:
            total += f"m{layer}" in writers
    return total


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("make", [random_edge_circuit, random_node_circuit])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_against_names(name, make, share):
    model = MODELS[name]()
    graph, channels = ComponentGraph.from_model(model), ChannelGraph.from_model(model)
    weights = ComponentWeights.of(model, graph)
    for seed in range(5):
        circuit = make(graph, share, seed)
        assert weights.inside(circuit) == counted_by_name(circuit, channels)


@pytest.mark.parametrize("name", MODELS)
def test_all_and_nothing(name):
    model = MODELS[name]()
    graph = ComponentGraph.from_model(model)
    weights = ComponentWeights.of(model, graph)
    assert weights.inside(Circuit.full(graph)) == ChannelGraph.from_model(model).n_edges
    assert weights.inside(Circuit.empty(graph)) == 0


def test_by_hand():
    """One edge into the query of head 1, one out of it: its W_Q and its W_O."""
    model = dense_model()  # d_model 4, two heads of 2
    graph = ComponentGraph.from_model(model)
    weights = ComponentWeights.of(model, graph)
    assert weights.inside(Circuit.from_edge_names(graph, ["input->a0.h1<q>"])) == 4 * 2
    both = Circuit.from_edge_names(graph, ["input->a0.h1<q>", "a0.h1->m1"])
    assert weights.inside(both) == 4 * 2 + 2 * 4 + 4 * 16
    assert weights.inside(Circuit.from_edge_names(graph, ["input->logits"])) == 0


def test_models_and_graphs_without():
    gated = dense_model(gated_mlp=True)
    graph = ComponentGraph.from_model(gated)
    assert component_weights(gated, graph) is None
    with pytest.raises(ValueError, match="gated"):
        ComponentWeights.of(gated, graph)
    sparse = sparse_model()
    assert component_weights(sparse, ChannelGraph.from_model(sparse)) is None
    other = ComponentGraph.from_config(config(3))
    weights = ComponentWeights.of(sparse, ComponentGraph.from_model(sparse))
    with pytest.raises(ValueError, match="use ComponentWeights"):
        weights.inside(Circuit.full(other))


def test_recorded_and_reported(tmp_path):
    """Every measurement of a component circuit has it; on the channel graph none."""
    model = toy.model()
    channels = ChannelGraph.from_model(model)
    methods = {"nodes": Half(), "edges": Half(edges=True)}
    results = compare(
        [model], [toy.task()], methods, out=tmp_path / "component", budgets=BUDGETS,
        graph=ComponentGraph.from_model,
    )  # fmt: skip
    graph = ComponentGraph.from_model(model)
    for record in results:
        assert record.status == "done", record.error
        circuit = Circuit.load(results.circuit_path(record), graph)
        assert record.chosen.weights_inside == counted_by_name(circuit, channels)
        assert record.full.weights_inside == channels.n_edges
        assert record.of_kind("empty")[0].weights_inside == 0
        assert all(m.weights_inside is not None for m in record.measurements)
    table = results.to_pandas()
    assert table["weights_inside"].notna().all()
    page = report_html(results)
    for row, record in zip(rows(page), sorted(results, key=lambda r: r.method), strict=True):
        assert f"{record.chosen.weights_inside:,}" in row
        assert f"{record.chosen.weights_inside:,} nonzero weights inside" in page
    assert "weights" in text_of(page)

    methods = {"nodes": ByIndex(), "edges": EdgesByIndex()}
    plain = compare([model], [toy.task()], methods, out=tmp_path / "channel", budgets=BUDGETS)
    assert plain.to_pandas()["weights_inside"].isna().all()
    assert "nonzero weights inside" not in report_html(plain)
