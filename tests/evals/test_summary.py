"""The summary against numbers worked out by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from sparse_lens.evals.counting import can_do, edges_counted
from sparse_lens.evals.intervals import geometric_mean, spread_of
from sparse_lens.evals.records import Measurement, Record
from sparse_lens.evals.summary import pretraining_sentence, summarize

GRAPH_EDGES = 1000


def measurement(kind, n_edges=0, *, loss=0.01, accuracy=1.0, connected=None) -> Measurement:
    return Measurement(
        kind=kind,
        n_nodes=5,
        n_edges=n_edges,
        connected_nodes=4,
        connected_edges=n_edges if connected is None else connected,
        kl=0.1,
        task_loss=loss,
        logit_difference=1.0,
        accuracy=accuracy,
        exact_match=1.0,
        necessity_kl=1.0,
        necessity_task_loss=2.0,
        necessity_logit_difference=-1.0,
        necessity_accuracy=0.5,
        necessity_exact_match=0.0,
    )


def record(model, task, edges, *, seed=0, method="m", met=True, full_loss=0.01, **changes):
    """The record of a job; `sparse` in the model's name makes it one."""
    values = {
        "job_id": f"{model}{task}{seed}{method}",
        "status": "done",
        "model": model,
        "model_hash": model,
        "nonzero_fraction": 0.05 if "sparse" in model else 1.0,
        "n_parameters": 100,
        "task": task,
        "task_seed": 0,
        "method": method,
        "method_class": "M",
        "hyperparameters": {},
        "graph": "channel",
        "graph_fingerprint": "f",
        "graph_nodes": 50,
        "graph_edges": GRAPH_EDGES,
        "ablation": {"type": "MeanAblation"},
        "seed": seed,
        "target_loss": 0.15,
        "met_on_validation": met,
        "met_on_held_out": met,
        "full_validation_loss": full_loss,
        "full_validation_accuracy": 1.0,
        "measurements": (measurement("chosen", edges), measurement("full", loss=full_loss)),
    }
    return Record(**(values | changes))


def test_means_and_ratio_by_hand():
    records = [
        record("sparse", "a", 4),
        record("sparse", "b", 9),
        record("dense", "a", 16),
        record("dense", "b", 81),
    ]
    summary = summarize(records)
    assert summary.common_tasks == ("a", "b")
    edges = {mean.model: mean.edges for mean in summary.means}
    assert edges == {"sparse": pytest.approx(6), "dense": pytest.approx(36)}
    (ratio,) = summary.ratios
    assert (ratio.dense, ratio.sparse) == ("dense", "sparse")
    assert ratio.by_task == {"a": pytest.approx(4), "b": pytest.approx(9)}
    assert ratio.by_seed == {0: pytest.approx(6)}
    assert ratio.spread.mean == pytest.approx(6)
    assert ratio.spread.sd_log is None
    assert ratio.spread.interval is None
    assert summary.statements == (
        "m: dense needs 6 times as many edges as sparse (range over 2 tasks: 4 to 9; one seed).",
    )


def test_a_deterministic_method_has_no_seeds():
    records = [
        record(model, "a", n, deterministic=True, seed=seed, method=method)
        for method, seed in (("once", 3), ("other", 3))
        for model, n in (("sparse", 2), ("dense", 8))
    ]
    records += [record("sparse", "a", 2, seed=4), record("dense", "a", 4, seed=4)]
    assert summarize(records).statements == (
        "once: dense needs 4 times as many edges as sparse (one task; deterministic).",
        "other: dense needs 4 times as many edges as sparse (one task; deterministic).",
        "m: dense needs 2 times as many edges as sparse (one task; one seed).",
    )


def test_spread_over_seeds():
    table = {("sparse", 0): 2, ("dense", 0): 4, ("sparse", 1): 2, ("dense", 1): 16}
    records = [record(model, "a", n, seed=seed) for (model, seed), n in table.items()]
    (ratio,) = summarize(records).ratios
    assert ratio.by_seed == {0: pytest.approx(2), 1: pytest.approx(8)}
    assert ratio.spread.mean == pytest.approx(4)
    assert (ratio.spread.minimum, ratio.spread.maximum) == (pytest.approx(2), pytest.approx(8))
    assert ratio.spread.sd_log == pytest.approx(math.log(8 / 2) / math.sqrt(2))
    assert ratio.spread.interval is None
    assert "(one task; range over 2 seeds: 2 to 8)." in summarize(records).statements[0]


def test_an_unmet_target_counts_as_the_full_graph_and_zero_edges_as_one():
    records = [record("sparse", "a", 0), record("dense", "a", 7, met=False)]
    summary = summarize(records)
    sparse, dense = summary.means
    assert (sparse.edges, sparse.zero, sparse.unmet) == (1, ("a",), ())
    assert (dense.edges, dense.zero, dense.unmet) == (pytest.approx(GRAPH_EDGES), (), ("a",))
    assert (sparse.nodes, dense.nodes) == (pytest.approx(5), pytest.approx(50))
    assert (dense.graph_nodes, dense.graph_edges) == (50, GRAPH_EDGES)
    assert dense.missed == ()
    assert summary.ratios[0].unmet == (("dense", "a", 0),)
    assert "1 of 2 targets were not met and count as the full graph" in summary.statements[0]
    missed = [replace(records[0], met_on_held_out=False), records[1]]
    assert summarize(missed).means[0].missed == ("a",)
    assert edges_counted(record("x", "a", 8, met=False)) == GRAPH_EDGES


def test_only_tasks_that_all_models_can_do():
    records = [
        record("sparse", "a", 2),
        record("sparse", "b", 1, full_loss=0.16),
        record("dense", "a", 8),
        record("dense", "b", 500),
    ]
    summary = summarize(records)
    assert summary.common_tasks == ("a",)
    sparse, dense = summary.models
    assert (sparse.can_do, sparse.cannot_do) == (("a",), ("b",))
    assert dense.can_do == ("a", "b")
    assert [mean.edges for mean in summary.means] == [pytest.approx(2), pytest.approx(8)]
    assert summary.ratios[0].by_task == {"a": pytest.approx(4)}


def test_who_can_do_a_task():
    def full(loss, accuracy):
        made = record("x", "a", 1)
        held_out = (measurement("full", loss=9.0, accuracy=0.0),)  # does not count
        made = replace(made, measurements=held_out)
        return replace(made, full_validation_loss=loss, full_validation_accuracy=accuracy)

    assert can_do(full(0.15, 0.95))
    assert not can_do(full(0.1501, 1.0))
    assert not can_do(full(0.01, 0.949))
    assert can_do(full(0.3, 0.6), loss=0.4, accuracy=0.5)
    with pytest.raises(ValueError, match="does not say how well the full model does"):
        can_do(full(None, None))


def test_no_common_task_is_said():
    records = [record("sparse", "a", 2), record("dense", "a", 8, full_loss=3.0)]
    summary = summarize(records)
    assert (summary.common_tasks, summary.means, summary.ratios) == ((), (), ())
    (statement,) = summary.statements
    assert "No task can be done by all models" in statement
    assert "sparse can do a; dense can do none" in statement


def test_without_a_sparse_model_there_is_no_ratio():
    summary = summarize([record("d1", "a", 2), record("d2", "a", 8)])
    assert summary.ratios == ()
    assert summary.statements == ("All models are dense: there is no dense-to-sparse ratio.",)
    assert "All models are sparse" in summarize([record("sparse", "a", 2)]).statements[0]


def test_methods_and_graphs_are_kept_apart():
    cells = itertools.product(("sparse", "dense"), ("m", "n"), ("channel", "component"))
    records = [
        record(model, "a", 3, method=method, graph=graph, job_id=f"{model}{method}{graph}")
        for model, method, graph in cells
    ]
    summary = summarize(records)
    assert len(summary.means) == 8
    assert len(summary.ratios) == 4
    assert len({ratio.setting for ratio in summary.ratios}) == 4


def test_a_failed_job_takes_its_task_out_of_that_method():
    records = [
        record("sparse", "a", 2),
        record("dense", "a", 8),
        record("sparse", "b", 3),
        record("dense", "b", 3, status="failed", measurements=()),
        record("sparse", "b", 3, method="n"),
        record("dense", "b", 12, method="n"),
    ]
    summary = summarize(records)
    assert summary.n_failed == 1
    by_method = {ratio.setting.method: ratio.by_task for ratio in summary.ratios}
    assert by_method == {"m": {"a": pytest.approx(4)}, "n": {"b": pytest.approx(4)}}
    assert "1 job failed" in summary.failure_words


@pytest.mark.parametrize(
    ("losses", "start"),
    [
        ({"sparse": 3.154, "dense": 3.133}, "Loss-matched: sparse 3.15, dense 3.13 (nats"),
        ({"sparse": 3.154, "dense": 3.0}, "Not loss-matched: sparse 3.15, dense 3.00 (nats"),
        ({"sparse": None, "dense": 3.0}, "Pretraining loss: sparse unknown, dense 3.00 (nats"),
        ({"sparse": 3.0}, "Pretraining loss: sparse 3.00 (nats"),
        ({"sparse": None, "dense": None}, ""),
    ],
)
def test_pretraining_losses_in_words(losses, start):
    records = [record(name, "t", 10, pretraining_loss=loss) for name, loss in losses.items()]
    sentence = pretraining_sentence(summarize(records).models)
    assert sentence.startswith(start)
    assert bool(sentence) == bool(start)


def test_connected_edges():
    made = record("sparse", "a", 6)
    chosen = measurement("chosen", 6, connected=2)
    made = replace(made, measurements=(chosen, *made.measurements[1:]))
    assert edges_counted(made) == 6
    assert edges_counted(made, count="connected") == 2
    other = record("dense", "a", 8)
    connected = summarize([made, other], count="connected")
    assert [mean.nodes for mean in connected.means] == [pytest.approx(4), pytest.approx(4)]
    assert connected.ratios[0].spread.mean == pytest.approx(4)


def test_nothing_at_all():
    assert summarize([]).means == ()


def test_geometric_mean():
    assert geometric_mean([1, 10, 100]) == pytest.approx(10)
    for bad in ([], [1, 0]):
        with pytest.raises(ValueError, match="positive"):
            geometric_mean(bad)


def test_bootstrap_interval_of_many_tasks():
    """Near the normal interval of the mean logarithm."""
    logs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = spread_of(logs.tolist())
    rows = logs.mean(1)
    half = 1.96 * float(rows.std()) / math.sqrt(50)
    assert spread.interval is not None
    low, high = spread.interval
    assert math.log(low) == pytest.approx(float(rows.mean()) - half, abs=0.03)
    assert math.log(high) == pytest.approx(float(rows.mean()) + half, abs=0.03)
    assert spread == spread_of(logs.tolist())


@pytest.mark.parametrize(("n_tasks", "has_interval"), [(1, False), (4, False), (5, True)])
def test_few_tasks_have_a_range_and_no_interval(n_tasks, has_interval):
    sizes = [2**i for i in range(1, n_tasks + 1)]
    records = [record("sparse", f"t{i}", 1) for i in range(n_tasks)]
    records += [record("dense", f"t{i}", size) for i, size in enumerate(sizes)]
    summary = summarize(records)
    (ratio,) = summary.ratios
    assert (ratio.spread.interval is not None) == has_interval
    statement = summary.statements[0]
    assert ("95% interval over 5 tasks: " in statement) == has_interval
    assert ("range over 4 tasks: 2 to 16" in statement) == (n_tasks == 4)
    assert ("(one task; one seed)" in statement) == (n_tasks == 1)
