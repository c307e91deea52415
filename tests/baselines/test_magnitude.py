"""Magnitudes of weights against loops over nodes and edges."""

from typing import Any

import pytest
import torch

from sparse_lens.ablation import ZeroAblation
from sparse_lens.baselines.magnitude import MagnitudeScores, magnitude_scores
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.task import Task
from tests.patching import tiny


def test_edges_of_a_channel_graph_are_weights() -> None:
    model = tiny.sparse("plain")
    graph = ChannelGraph.from_model(model)
    scores = magnitude_scores(model, graph, edges=True).by_name()
    weight = model.blocks[1].mlp.W_out.detach()
    for src, dst in weight.nonzero().tolist():
        name = f"blocks.1.mlp_post:{src}->blocks.1.mlp_out:{dst}"
        assert scores[name] == pytest.approx(abs(float(weight[src, dst])))


def test_nodes_of_a_channel_graph_are_norms_of_their_weights() -> None:
    model = tiny.sparse("plain")
    graph = ChannelGraph.from_model(model)
    edges = magnitude_scores(model, graph, edges=True).by_name()
    squares = dict.fromkeys(graph.node_names(), 0.0)
    for name, size in edges.items():
        for end in name.split("->"):
            squares[end] += size**2
    for channel, row in enumerate(model.W_U):
        squares[f"final_resid:{channel}"] = row.square().sum().item()
    scores = magnitude_scores(model, graph).by_name()
    assert scores == pytest.approx({name: total**0.5 for name, total in squares.items()}, rel=1e-5)


def test_edges_of_a_component_graph_are_compositions() -> None:
    model: Any = tiny.dense("gated MLP")
    graph = ComponentGraph.from_model(model)
    scores = magnitude_scores(model, graph).by_name()
    block = model.blocks[1]
    head = model.blocks[0].attn.W_O[2]
    reads = {
        "a1.h3<k>": block.ln1.w[:, None] * block.attn.W_K[3],
        "m1": block.ln2.w[:, None] * torch.cat([block.mlp.W_gate, block.mlp.W_in], 1),
        "logits": model.ln_final.w[:, None] * model.W_U,
    }
    for writer, writes in (
        ("input", model.W_E),
        ("a0.h2", head),
        ("m0", model.blocks[0].mlp.W_out),
    ):
        for reader, matrix in reads.items():
            norm = (writes @ matrix).square().sum().sqrt().item()
            assert scores[f"{writer}->{reader}"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("name", ["OLMo 2", "OLMo 2, LayerNorm"])
def test_the_gain_of_a_norm_after_the_sublayer_is_not_part_of_what_it_reads(name: str) -> None:
    model: Any = tiny.dense(name)
    scores = magnitude_scores(model, ComponentGraph.from_model(model)).by_name()
    block, head = model.blocks[1], model.blocks[0].attn.W_O[2]
    reads = {
        "a1.h3<v>": block.attn.W_V[3],
        "m1": torch.cat([block.mlp.W_gate, block.mlp.W_in], 1),
        "logits": model.ln_final.w[:, None] * model.W_U,
    }
    for reader, matrix in reads.items():
        norm = (head @ matrix).square().sum().sqrt().item()
        assert scores[f"a0.h2->{reader}"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize(
    ("graph_type", "make", "name"),
    [
        (ComponentGraph, tiny.dense, "LN"),
        (ComponentGraph, tiny.dense, "gated MLP"),
        (ComponentGraph, tiny.dense, "no norm"),
        (ComponentGraph, tiny.dense, "OLMo 2"),
        (ComponentGraph, tiny.sparse, "positions"),
        (ChannelGraph, tiny.dense, "LN"),
        (ChannelGraph, tiny.sparse, "plain"),
    ],
)
def test_a_model_in_float64_scores_as_in_float32(graph_type: Any, make: Any, name: str) -> None:
    single, double = make(name), make(name, dtype=torch.float64)
    expected = magnitude_scores(single, graph_type.from_model(single)).by_name()
    scores = magnitude_scores(double, graph_type.from_model(double)).by_name()
    assert scores == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("make", [ComponentGraph, ChannelGraph])
@pytest.mark.parametrize("name", ["LN", "RMSPre", "no norm", "attention only"])
def test_a_circuit_of_any_size(make: Any, name: str) -> None:
    model = tiny.dense(name)
    graph, task = make.from_model(model), Task("tiny", tiny.prompts())
    found = MagnitudeScores().discover(model, graph, task, ablation=ZeroAblation())
    assert found.chosen is None
    size = {"n_edges": 9} if make is ComponentGraph else {"n_nodes": 9}
    circuit = found.at(**size)
    assert (circuit.n_edges if make is ComponentGraph else circuit.n_nodes) == 9


def test_a_mixture_of_experts_is_refused() -> None:
    model = tiny.dense("LN")
    model.cfg.num_experts = 2
    with pytest.raises(ValueError, match="mixture of experts"):
        magnitude_scores(model, ComponentGraph.from_model(model))
