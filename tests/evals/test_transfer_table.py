"""Tables of circuits over tasks, against slow versions."""

from typing import Any

import pytest
import torch

from sparse_lens.circuit import Circuit
from sparse_lens.evals.questions import transfer_table
from sparse_lens.graphs import ChannelGraph
from sparse_lens.patching import run_circuit
from tests.evals import toy_comparison as toy
from tests.graphs.tiny import random_node_circuit


def slow_differences(bound: Any, circuit: Circuit, prompts: Any) -> list[float]:
    """Logit differences of prompts that run alone."""
    differences = []
    for i, position in enumerate(prompts.answer_positions.tolist()):
        tokens = prompts.clean[i : i + 1]
        with torch.no_grad():
            logits = run_circuit(bound.model, circuit, tokens, ablation=bound)[0, position]
        differences.append(float(logits[prompts.answers[i]] - logits[prompts.distractors[i]]))
    return differences


def test_every_circuit_on_every_task():
    model = toy.model()
    graph = ChannelGraph.from_model(model)
    bound = toy.bound(graph, model)
    circuits = {name: random_node_circuit(graph, 0.6, seed) for seed, name in enumerate("ab")}
    prompts = {"a": toy.prompts(3, 1), "b": toy.prompts(4, 2), "another style": toy.prompts(2, 3)}
    table = transfer_table(bound, circuits, prompts)
    names = ["full model", "a", "b"]
    assert list(zip(table["circuit"], table["prompts"], strict=True)) == [
        (name, style) for style in prompts for name in names
    ]
    everything = {"full model": Circuit.full(graph), **circuits}
    by_place = table.pivot_table(index="circuit", columns="prompts", values="logit_difference")
    losses = table.pivot_table(index="circuit", columns="prompts", values="task_loss")
    for name, circuit in everything.items():
        assert set(table[table["circuit"] == name]["n_edges"]) == {circuit.n_edges}
        for style, own in prompts.items():
            differences = torch.tensor(slow_differences(bound, circuit, own))
            assert by_place.loc[name, style] == pytest.approx(float(differences.mean()), abs=1e-5)
            loss = torch.nn.functional.softplus(-differences).mean()
            assert losses.loc[name, style] == pytest.approx(float(loss), abs=1e-5)
    assert set(table[table["circuit"] == "full model"]["kl"].round(6)) == {0.0}
    with pytest.raises(ValueError, match="circuits and prompts, got 0 and 3"):
        transfer_table(bound, {}, prompts)
    with pytest.raises(ValueError, match="rename that circuit"):
        transfer_table(bound, {"full model": circuits["a"]}, prompts)
