"""What a comparison asks only on demand, and tables over tasks: against slow versions."""

from typing import Any

import pytest
import torch

from sparse_lens.circuit import Circuit
from sparse_lens.evals.compare import compare, plan
from sparse_lens.evals.questions import Questions, completeness, transfer_table
from sparse_lens.evals.report import report_html
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.patching import run_circuit
from tests.evals import toy_comparison as toy
from tests.evals.test_report import rows, text_of
from tests.evals.toy_comparison import BUDGETS, ByIndex, Half
from tests.graphs.tiny import random_node_circuit


def slow_differences(bound: Any, circuit: Circuit, prompts: Any) -> list[float]:
    """Logit differences of prompts that run alone."""
    found = []
    for i, position in enumerate(prompts.answer_positions.tolist()):
        tokens = prompts.clean[i : i + 1]
        with torch.no_grad():
            logits = run_circuit(bound.model, circuit, tokens, ablation=bound)[0, position]
        found.append(float(logits[prompts.answers[i]] - logits[prompts.distractors[i]]))
    return found


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
def test_completeness_is_recorded_and_reported(tmp_path, graph_of):
    model, task = toy.model(), toy.task()
    asked = Questions(completeness_draws=3, completeness_share=0.4).only(["completeness"])
    results = compare(
        [model], [task], {"nodes": Half()}, out=tmp_path, graph=graph_of, budgets=BUDGETS,
        questions=asked, seeds=[3],
    )  # fmt: skip
    (record,) = results
    assert record.status == "done", record.error
    graph, held_out = graph_of(model), task.split("held_out")
    bound = toy.bound(graph, model)
    circuit = Circuit.load(results.circuit_path(record), graph)
    drawn = completeness(bound, circuit, held_out, share=0.4, draws=3, seed=3).removed
    assert any(drawn)
    scores = []
    for removed in drawn:
        gone = Circuit.from_node_names(graph, removed)
        of_circuit = slow_differences(bound, circuit - gone, held_out)
        of_model = slow_differences(bound, Circuit.full(graph) - gone, held_out)
        scores.append(abs(sum(of_circuit) - sum(of_model)) / len(held_out))
    assert record.chosen.incompleteness == pytest.approx(sum(scores) / 3, abs=1e-5)
    assert record.chosen.worst_incompleteness == pytest.approx(max(scores), abs=1e-5)
    assert max(scores) > min(scores) > 0
    assert record.chosen.dispensable_share is None
    page = report_html(results)
    (row,) = rows(page, controls=True)
    assert row[-2:] == [f"{sum(scores) / 3:.3f}", f"{max(scores):.3f}"]
    assert "missing, worst Random parts of the circuit are removed" in text_of(page)


def test_completeness_is_asked_on_demand():
    """By default it is not, and then a job is the same as before it could be."""
    assert Questions().completeness_draws == 0
    assert Questions().only(["completeness"]).completeness_draws == 8
    assert Questions(completeness_draws=5).only(["completeness"]).completeness_draws == 5
    assert Questions(completeness_draws=5).only(["minimality"]).completeness_draws == 0
    assert Questions.none() == Questions().only([])
    assert not Questions.none().any
    assert Questions().only(["completeness"]).any
    with pytest.raises(ValueError, match="completeness_draws is a number of runs"):
        Questions(completeness_draws=-1)
    with pytest.raises(ValueError, match=r"completeness_share must lie in \(0, 1\], got 0"):
        Questions(completeness_share=0.0)

    def job_id(**changes: Any) -> str:
        (job,) = plan([toy.model()], [toy.task()], [ByIndex()], questions=Questions(**changes))
        return job.id

    ids = {job_id(), job_id(completeness_draws=1), job_id(completeness_draws=1, subset_draws=2)}
    assert len(ids) == 3
    assert job_id(completeness_share=0.1) == job_id()
    assert job_id(completeness_share=0.1, completeness_draws=1) not in ids
    assert set(Questions().identity) == {
        "resample_draws", "frozen_norms", "subset_draws", "subset_share", "minimality_nodes",
        "dispensable_below",
    }  # fmt: skip


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
