"""What nodes do on prompts: against values taken from the running circuit by hand."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sparse_lens.ablation import MeanAblation, ZeroAblation
from sparse_lens.circuit import Circuit
from sparse_lens.evals.harness import profiling
from sparse_lens.evals.harness.profiling import profiles_of
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.objectives import TaskLoss
from sparse_lens.patching import answer_logits, bind, patched
from sparse_lens.plotting import Network
from sparse_lens.plotting.drawing import network_spec
from sparse_lens.plotting.profiles import LEVELS, Profiles
from tests.evals import toy_comparison as toy
from tests.patching import tiny

PROMPTS = toy.prompts(3, 1)
LENGTHS = PROMPTS.answer_positions + 1


def cache_of(model: Any, circuit: Circuit, ablation: Any, prompts: Any) -> Any:
    with patched(model, circuit, ablation=ablation, prompts=prompts):
        return model.run_with_cache(prompts.clean)[1]


@pytest.fixture(scope="module")
def channel() -> tuple[Any, Circuit, Profiles]:
    model = toy.model()
    graph = ChannelGraph.from_model(model)
    circuit = tiny.random_nodes(graph, 0.6, seed=1)
    return model, circuit, profiles_of(bind(model, graph, MeanAblation()), circuit, PROMPTS, None)


def test_means_are_those_of_the_running_circuit(channel):
    model, circuit, found = channel
    cache = cache_of(model, circuit, MeanAblation(), PROMPTS)
    assert [node.name for node in found.nodes] == circuit.node_names()
    assert found.classes == ("3", "7")
    rows = torch.arange(len(PROMPTS))
    for node in found.nodes:
        site, index = circuit.graph.parse_node(node.name)
        values = cache[circuit.graph.sites[site].hook_name]
        values = values.flatten(2) if site.endswith((".q", ".k", ".v")) else values
        at_answer = values[rows, PROMPTS.answer_positions, index]
        for answer, mean in zip((3, 7), node.means, strict=True):
            expected = at_answer[PROMPTS.answers == answer].mean().item()
            assert mean == pytest.approx(expected, rel=2e-3, abs=1e-6)
        for row, levels in enumerate(node.activations):
            expected = values[row, : LENGTHS[row], index]
            shown = torch.tensor(levels) * node.largest / LEVELS
            assert torch.allclose(shown, expected, atol=0.51 * node.largest / LEVELS + 1e-6)


def test_top_tokens_are_farthest_from_the_mean(channel):
    model, circuit, found = channel
    cache = cache_of(model, circuit, MeanAblation(), PROMPTS)
    real = torch.arange(PROMPTS.clean.shape[1]) < LENGTHS[:, None]
    for node in found.nodes:
        site, index = circuit.graph.parse_node(node.name)
        values = cache[circuit.graph.sites[site].hook_name]
        values = values.flatten(2) if site.endswith((".q", ".k", ".v")) else values
        values, tokens = values[..., index][real], PROMPTS.clean[real]
        distances = (values - values.mean()).abs()
        farthest = {t: distances[tokens == t].max().item() for t in tokens.unique().tolist()}
        best = sorted(farthest.values(), reverse=True)[:3]
        assert [farthest[int(token)] for token in node.top_tokens] == pytest.approx(best, abs=1e-6)


def test_heads_and_mlps_have_the_norms_of_what_they_write():
    model = tiny.dense("LN")
    graph = ComponentGraph.from_model(model)
    circuit = tiny.random_edges(graph, 0.5, seed=2)
    prompts = tiny.prompts()
    found = profiles_of(bind(model, graph, ZeroAblation()), circuit, prompts, None)
    cache = cache_of(model, circuit, ZeroAblation(), prompts)
    by_name = {node.name: node for node in found.nodes}
    assert "logits" not in by_name
    checked = 0
    for layer in range(graph.n_layers):
        for head in range(graph.n_heads):
            z = cache[f"blocks.{layer}.attn.hook_z"][:, :, head]
            written = z @ model.blocks[layer].attn.W_O[head]
            if f"a{layer}.h{head}" in by_name:
                norms = written.norm(dim=-1)
                shown = by_name[f"a{layer}.h{head}"]
                assert shown.largest == pytest.approx(norms[:4].max().item(), rel=1e-3)
                checked += 1
    assert checked >= 3


def test_tokens_are_texts_where_there_is_a_tokenizer(channel):
    model, circuit, _ = channel
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(11)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    bound = bind(model, circuit.graph, MeanAblation())
    found = profiles_of(bound, circuit, PROMPTS, tokenizer)
    assert found.classes == ("w3", "w7")
    assert found.prompts[0] == tuple(f"w{t}" for t in PROMPTS.clean[0, : LENGTHS[0]].tolist())
    assert found.prompt_classes[0] == 0


def test_many_answers_are_one_class(channel):
    model, circuit, _ = channel
    prompts = toy.prompts(3, 1)
    object.__setattr__(prompts, "answers", torch.tensor([0, 1, 2, 4, 5, 6]))
    bound = bind(model, circuit.graph, MeanAblation())
    found = profiles_of(bound, circuit, prompts, None)
    assert found.classes == ("all prompts",)
    assert all(len(node.means) == 1 for node in found.nodes)


def test_classes_of_several_answers_are_called_by_them(channel):
    model, circuit, _ = channel
    answers = [[3, 5, 3, 3], [7, 1, 2, 4]] * 3
    prompts = replace(PROMPTS, answers=torch.tensor(answers), distractors=None)
    bound = bind(model, circuit.graph, MeanAblation())
    found = profiles_of(bound, circuit, prompts, None)
    assert found.classes == ("3 | 5", "7 | 1 | 2 | ...")
    assert found.prompt_classes == (0, 1, 0, 1)


def test_effects_are_those_of_a_circuit_without_the_node(channel):
    model, circuit, found = channel
    graph = circuit.graph
    bound = bind(model, graph, MeanAblation())

    def loss(one: Circuit) -> float:
        with patched(model, one, ablation=bound, prompts=PROMPTS):
            return float(TaskLoss()(answer_logits(model, PROMPTS), PROMPTS).mean().detach())

    for node in found.nodes[::5]:
        rest = [name for name in circuit.node_names() if name != node.name]
        expected = loss(Circuit.from_node_names(graph, rest)) - loss(circuit)
        assert node.effect == pytest.approx(expected, abs=1e-4)


def test_effects_of_large_circuits_are_not_measured(channel, monkeypatch):
    model, circuit, _ = channel
    monkeypatch.setattr(profiling, "MOST_EFFECTS", 3)
    found = profiles_of(bind(model, circuit.graph, MeanAblation()), circuit, PROMPTS, None)
    assert all(node.effect is None for node in found.nodes)


def test_a_drawing_takes_profiles_along(channel):
    model, circuit, found = channel
    network = Network.of(circuit, model, profiles=found)
    assert Network.from_json(network.to_json()) == network
    spec = network_spec(network)
    meta = json.loads(json.dumps(spec["layout"]["meta"]))["profiles"]
    assert [network.nodes[i].name for i in meta["numbers"]] == meta["nodes"]["name"]
    assert meta["levels"] == LEVELS
    hover = {
        network.nodes[number].name: text
        for trace in spec["data"]
        if trace["meta"]["role"] == "nodes"
        for number, text in zip(trace["customdata"], trace["hovertext"], strict=True)
    }
    for node in found.nodes:
        assert "mean activation" in hover[node.name]
        assert "before <b>3</b>" in hover[node.name]
        assert "most on <b>" in hover[node.name]


def test_hovering_names_the_strongest_edges(channel):
    model, circuit, _ = channel
    network = Network.of(circuit, model)
    spec = network_spec(network)
    for trace in spec["data"]:
        if trace["meta"]["role"] != "nodes":
            continue
        for number, text in zip(trace["customdata"], trace["hovertext"], strict=True):
            into = [edge for edge in network.edges if edge.target == number]
            into.sort(key=lambda edge: -abs(edge.weight or 0.0))
            for edge in into[:3]:
                assert network.nodes[edge.source].name in text
            for edge in into[3:]:
                assert f"{network.nodes[edge.source].name} " not in text.split("<br>from ")[1]
