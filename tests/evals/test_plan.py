"""The jobs of a comparison: their identity, their labels, and bad input that makes none."""

import copy
import inspect
import json
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

import sparse_lens as sl
from sparse_lens.evals.compare import plan
from sparse_lens.evals.harness.jobs import run_job
from sparse_lens.evals.questions import Questions
from sparse_lens.evals.results import Results
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.method import registry
from sparse_lens.models.checkpoint import save_sparse_gpt
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex

METHOD = ByIndex()


def test_jobs_travel_and_repeat():
    attribution: Any = registry()["attribution-patching"]
    methods = {"nodes": ByIndex(), "scores": attribution()}
    jobs = plan([toy.model()], [toy.task()], methods, seeds=[3], budgets=BUDGETS, target_loss=5.0)
    for job in jobs:
        there = pickle.loads(pickle.dumps(job))
        assert there.id == job.id
        here, away = run_job(job), run_job(there)
        assert here.record.status == "done", here.record.error
        assert here.circuit == away.circuit
        assert here.drawing == away.drawing is not None
        assert toy.without_what_differs(here.record) == toy.without_what_differs(away.record)


def test_the_id_depends_on_everything():
    model, other = toy.model(), toy.model()
    with torch.no_grad():
        other.blocks[0].mlp.b_out[0] += 1e-6  # type: ignore[operator, index]
    reference = toy.model()
    reference.reference_tokens = reference.reference_tokens.flip(0)  # type: ignore[union-attr]
    task = toy.task()
    longer = replace(task, held_out=toy.prompts(5, 2))
    common: dict[str, Any] = {"graph": ChannelGraph.from_model, "budgets": BUDGETS}

    def id_of(model=model, task=task, method=METHOD, label="nodes", **changes):
        settings: dict[str, Any] = {**common, "seeds": [0], **changes}
        (job,) = plan([model], [task], {label: method}, **settings)
        return job.id

    ids = [
        id_of(),
        id_of(model=other),
        id_of(model=reference),
        id_of(model=toy.model(activation_type="relu")),
        id_of(task=longer),
        id_of(method=ByIndex(step=8)),
        id_of(label="mine"),
        id_of(graph=ComponentGraph.from_model),
        id_of(ablation=sl.ZeroAblation()),
        id_of(ablation=sl.MeanAblation(per_position=True)),
        id_of(ablation=sl.MeanAblation(tokens=torch.zeros(1, 4, dtype=torch.long))),
        id_of(seeds=[1]),
        id_of(target_loss=0.2),
        id_of(budgets=replace(BUDGETS, counts=(3,))),
        id_of(random_draws=1),
        id_of(questions=Questions.none()),
        id_of(questions=Questions(subset_share=0.4)),
    ]
    assert len(set(ids)) == len(ids)
    assert id_of(model=copy.deepcopy(model)) == ids[0]
    model.set_use_split_qkv_input(True)
    assert id_of() == ids[0], "flags of hook points do not change what a model computes"


@pytest.mark.parametrize(
    ("log", "loss"),
    [
        ({"final": {"stdlib_loss": 3.125, "grammar_loss": 2.5}}, 3.125),
        ({"final": {"grammar_loss": 2.5}}, None),
        ({"epochs": 3}, None),
        ([1, 2], None),
        (None, None),
    ],
)
def test_the_pretraining_loss_is_that_of_the_folder(tmp_path, log, loss):
    save_sparse_gpt(toy.model(tied_unembed=False), tmp_path / "model")
    if log is not None:
        (tmp_path / "model" / "training.json").write_text(json.dumps(log))
    (job,) = plan([tmp_path / "model"], [toy.task()], [ByIndex()])
    record = job.blank()
    assert record.pretraining_loss == loss
    assert Results((record,)).to_pandas().pretraining_loss.tolist() == [loss]


def test_labels(tmp_path):
    pruning: Any = registry()["node-pruning"]
    jobs = plan([toy.model()], [toy.task()], [pruning(), pruning(n_steps=5), ByIndex()])
    assert [job.label for job in jobs] == ["node-pruning", "node-pruning n_steps=5", "ByIndex"]
    assert jobs[0].model.label.endswith(jobs[0].model.hash[:8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "nothing to compare"),
        ({"seeds": 0}, "nothing to compare"),
        ({"models": "py-sparse"}, "must be a list"),
        ({"models": ["nobody"]}, "no model 'nobody'"),
        ({"tasks": ["nothing"]}, "no task 'nothing'"),
        ({"tasks": [toy.task(), toy.task()]}, "'toy'.* more than once"),
        ({"tasks": [sl.Task("bare", train=toy.prompts(2, 0))]}, "no validation split"),
        ({"methods": [ByIndex(), ByIndex()]}, "more than once"),
        ({"target_loss": -0.1}, "target_loss must be positive and finite, in nats, got -0.1"),
        ({"target_loss": math.nan}, "target_loss must be positive and finite, in nats, got nan"),
        ({"tasks": toy.task()}, r"tasks must be a list, got Task; pass \[it\]"),
        ({"methods": ByIndex()}, r"methods must be a list, got ByIndex; pass \[it\]"),
        ({"methods": ["random"]}, "methods are objects such as NodePruning.., got 'random'"),
        ({"methods": {"mine": ByIndex}}, "methods are objects such as NodePruning.., got <class"),
        ({"graph": "component"}, "as ComponentGraph.from_model does, got 'component'"),
        ({"ablation": "mean"}, "ablation is an object such as ZeroAblation.., got 'mean'"),
        ({"seeds": [1, 2, 1]}, "seeds must differ, got \\['1'\\] more than once"),
        ({"models": [toy.model(activation_type="relu", residual_activation_type="relu")],
          "graph": ComponentGraph.from_model}, "relu"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_runs(arguments, message):
    given: dict[str, Any] = {
        "models": [toy.model()],
        "tasks": [toy.task()],
        "methods": [ByIndex()],
        **arguments,
    }
    # As for users: the checks of types that run under test would come first.
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(plan)(given.pop("models"), given.pop("tasks"), given.pop("methods"), **given)


def test_prompts_in_tokens_that_a_model_lacks_fail_their_job_by_name():
    task = toy.task()
    held_out = task.split("held_out")
    beyond = replace(task, held_out=replace(held_out, clean=held_out.clean + 1000))
    (job,) = plan([toy.model()], [beyond], [ByIndex()])
    error = run_job(job).record.error
    assert error is not None
    assert "clean has the token 10" in error
    assert "the model's vocabulary ends at" in error
