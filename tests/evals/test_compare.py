"""The harness: records against direct computation, and failures."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

import sparse_lens as sl
from sparse_lens.circuit import Circuit
from sparse_lens.evals.compare import compare
from sparse_lens.evals.controls import complement
from sparse_lens.evals.metrics import measure
from sparse_lens.evals.results import Results
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.identity import describe
from sparse_lens.search import choose_circuit
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex, EdgesByIndex, Failing

METHODS = {"nodes": ByIndex(), "edges": EdgesByIndex()}
EASY = 0.9
"""A target that some random circuit meets."""
METRICS = ("kl", "task_loss", "logit_difference", "accuracy", "exact_match")


def direct_means(logits, full, prompts):
    """Task loss and accuracy of logits at all positions."""
    rows = torch.arange(len(prompts))
    at = logits[rows, prompts.answer_positions]
    two = torch.stack([at[rows, prompts.answers], at[rows, prompts.distractors]], -1)
    loss = F.cross_entropy(two, torch.zeros(len(rows), dtype=torch.long))
    log_p = full[rows, prompts.answer_positions].log_softmax(-1)
    kl = F.kl_div(at.log_softmax(-1), log_p, log_target=True, reduction="batchmean")
    return float(loss), float((two[:, 0] > two[:, 1]).float().mean()), float(kl)


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
def test_records_against_direct_computation(tmp_path, graph_of):
    model, task = toy.model(), toy.task()
    results = sl.compare(
        [model], [task], METHODS, out=tmp_path, graph=graph_of, budgets=BUDGETS,
        target=Target(EASY), random_draws=2, questions=(),
    )  # fmt: skip
    graph = graph_of(model)
    ablation, held_out = sl.MeanAblation(), task.split("held_out")
    with torch.no_grad():
        full = model(held_out.clean)
        empty = sl.run_circuit(model, Circuit.empty(graph), held_out, ablation=ablation)
    assert len(results) == 2
    for record in results:
        assert record.status == "done", record.error
        kinds = Counter(m.kind for m in record.measurements)
        n_budgets = len(BUDGETS.of(graph))
        assert kinds == {"chosen": 1, "full": 1, "empty": 1, "random": 2, "budget": n_budgets}
        (none,) = record.of_kind("empty")
        for measurement, logits in ((record.full, full), (none, empty)):
            loss, accuracy, kl = direct_means(logits, full, held_out)
            assert measurement.task_loss == pytest.approx(loss, abs=1e-6)
            assert measurement.accuracy == accuracy
            assert measurement.kl == pytest.approx(kl, abs=1e-6)
        assert (record.full.kl, record.full.exact_match) == (0.0, 1.0)
        assert record.full.necessity_task_loss == none.task_loss
        assert none.necessity_task_loss == record.full.task_loss
        assert (none.n_nodes, none.n_edges) == (0, 0)
        assert (record.graph_nodes, record.graph_edges) == (graph.n_nodes, graph.n_edges)
        assert (record.graph, record.graph_fingerprint) == (graph.kind, graph.fingerprint)
        assert [m.requested_edges for m in record.curve] == list(BUDGETS.of(graph))
        for m in record.curve:
            assert m.requested_edges is not None
            assert m.connected_edges <= m.n_edges <= m.requested_edges


def test_a_saved_circuit_run_again_gives_the_numbers(tmp_path):
    model, task = toy.model(), toy.task()
    compare([model], [task], METHODS, out=tmp_path, budgets=BUDGETS, target=Target(EASY))
    results = Results.load(tmp_path)
    graph = ChannelGraph.from_model(model)
    bound = toy.bound(graph, model)
    for record in results:
        circuit = Circuit.load(results.circuit_path(record), graph)
        again = measure(bound, circuit, task.split("held_out")).means()
        ablated = measure(bound, complement(circuit), task.split("held_out")).means()
        for name in METRICS:
            assert getattr(record.chosen, name) == again[name]
            assert getattr(record.chosen, f"necessity_{name}") == ablated[name]
        assert record.chosen.n_edges == circuit.n_edges
        assert record.chosen.connected_edges == circuit.connected().n_edges
        assert record.circuit_given_by == ("nodes" if record.method == "nodes" else "edges")
        assert record.met_on_held_out == (again["task_loss"] <= EASY)


def test_every_method_is_given_the_same_target_and_search(tmp_path):
    model, task = toy.model(), toy.task()
    by_label = {
        record.method: record
        for record in compare(
            [model], [task], METHODS, out=tmp_path, budgets=BUDGETS, target=Target(EASY)
        )
    }
    assert by_label["nodes"].hyperparameters["target"] == describe(Target(EASY))
    graph = ChannelGraph.from_model(model)
    bound = toy.bound(graph, model)
    for label, method in METHODS.items():
        scores = method.discover(model, graph, task, ablation=bound).scores
        expected = choose_circuit(bound, scores, task, target=Target(EASY))
        record = by_label[label]
        assert record.met_on_validation == expected.met_target
        assert record.validation_loss == expected.loss
        assert record.search == expected.tried
        assert record.chosen.n_edges == expected.circuit.n_edges
    assert by_label["nodes"].chosen.requested_nodes == by_label["nodes"].chosen.n_nodes
    assert by_label["edges"].chosen.requested_edges == by_label["edges"].chosen.n_edges


def test_a_failure_is_recorded_and_the_others_go_on(tmp_path):
    seen = []
    results = compare(
        [toy.model()], [toy.task()], {"bad": Failing(), "good": ByIndex()}, out=tmp_path,
        seeds=2, budgets=BUDGETS, progress=seen.append,
    )  # fmt: skip
    assert [record.status for record in results] == ["failed", "failed", "done", "done"]
    assert "ZeroDivisionError: no circuit today" in str(results.failed[0].error)
    assert "discover" in str(results.failed[0].error)
    assert results.failed[0].measurements == ()
    assert [p.record is None for p in seen] == [True, False] * 4
    assert [(p.number, p.total, p.seed) for p in seen[::2]] == [
        (1, 4, 0), (2, 4, 1), (3, 4, 0), (4, 4, 1),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no saved circuit"):
        results.circuit_path(results.failed[0])


def test_tasks_by_name_need_a_tokenizer_that_carries_them(tmp_path, tokenizer, bytes_tokenizer):
    model = toy.model(vocab_size=1024, block_size=128)
    results = compare([model], ["for_while"], METHODS, out=tmp_path / "none", budgets=BUDGETS)
    assert "no tokenizer" in str(results.failed[0].error)
    model.set_tokenizer(copy.deepcopy(bytes_tokenizer))
    results = compare([model], ["for_while"], METHODS, out=tmp_path / "bytes", budgets=BUDGETS)
    assert "ValueError" in str(results.failed[0].error)
    model.set_tokenizer(copy.deepcopy(tokenizer))
    sizes = sl.evals.tasks.SplitSizes(n_train=8, n_validation=6, n_held_out=4)
    (record,) = compare(
        [model], ["for_while"], {"nodes": ByIndex()}, out=tmp_path / "ours", budgets=BUDGETS,
        splits=sizes, task_seed=5,
    )  # fmt: skip
    assert record.status == "done", record.error
    assert (record.n_train, record.n_validation, record.n_held_out) == (8, 6, 4)
    assert record.task_seed == 5
