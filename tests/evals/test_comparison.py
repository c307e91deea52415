"""A comparison as a value: its jobs, their identity and labels, and bad input that makes none."""

import copy
import inspect
import json
import pickle
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
import torch

import sparse_lens as sl
from sparse_lens.commands.compare_presets import PRESETS
from sparse_lens.evals.compare import Comparison, ComparisonSettings
from sparse_lens.evals.harness.jobs import Job, run_job
from sparse_lens.evals.harness.settings import JobSettings
from sparse_lens.evals.questions import Minimality, RandomSubsets
from sparse_lens.evals.results import Results
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.method import registry
from sparse_lens.models.checkpoint import save_sparse_gpt
from sparse_lens.refined import Refined
from sparse_lens.target import PAPER, Target
from tests.evals import toy_comparison as toy
from tests.evals.toy_comparison import BUDGETS, ByIndex

METHOD = ByIndex()


def test_jobs_travel_and_repeat():
    attribution: Any = registry()["attribution-patching"]
    methods = {"nodes": ByIndex(), "scores": attribution()}
    jobs = Comparison(
        [toy.model()], [toy.task()], methods, seeds=[3], budgets=BUDGETS, target=Target(5.0)
    ).jobs()
    for job in jobs:
        there = pickle.loads(pickle.dumps(job))
        assert there.id == job.id
        here, away = run_job(job), run_job(there)
        assert here.record.status == "done", here.record.error
        assert here.circuit == away.circuit
        assert here.drawing == away.drawing is not None
        assert toy.without_durations(here.record) == toy.without_durations(away.record)


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
        (job,) = Comparison([model], [task], {label: method}, **settings).jobs()
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
        id_of(target=Target(0.2)),
        id_of(budgets=replace(BUDGETS, counts=(3,))),
        id_of(random_draws=1),
        id_of(questions=()),
        id_of(questions=[Minimality()]),
        id_of(questions=[RandomSubsets(share=0.4)]),
        id_of(questions={"mine": RandomSubsets(share=0.4)}),
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
    (job,) = Comparison([tmp_path / "model"], [toy.task()], [ByIndex()]).jobs()
    record = job.blank()
    assert record.pretraining_loss == loss
    assert Results((record,)).to_pandas().pretraining_loss.tolist() == [loss]


def test_a_job_holds_one_model_and_the_settings_that_it_needs():
    models = [toy.model(), toy.model(activation_type="relu")]
    jobs = Comparison(models, [toy.task()], [ByIndex()], target=Target(0.3)).jobs()
    assert [job.model.origin for job in jobs] == models
    assert all(type(job.settings) is JobSettings for job in jobs)
    assert {job.settings.target for job in jobs} == {Target(0.3)}
    assert {job.method.target for job in jobs} == {Target(0.3)}  # type: ignore[attr-defined]
    assert ByIndex().target == PAPER


@dataclass(frozen=True)
class ByDivergence(ByIndex):
    """Works on the divergence from the full model unless it is told otherwise."""

    objective: sl.Objective = field(default_factory=sl.KLDivergence)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [sl.TaskLoss(), sl.TaskLoss()]),
        ({"objective": sl.KLDivergence()}, [sl.KLDivergence(), sl.KLDivergence()]),
        ({"objective": None}, [sl.TaskLoss(), sl.KLDivergence()]),
    ],
)
def test_all_methods_work_on_one_objective(settings, expected):
    methods = [ByIndex(), ByDivergence()]
    jobs = Comparison([toy.model()], [toy.task()], methods, **settings).jobs()
    assert [job.method.objective for job in jobs] == expected
    recorded = [job.blank().hyperparameters["objective"]["type"] for job in jobs]
    assert recorded == [type(objective).__name__ for objective in expected]
    assert methods[1].objective == sl.KLDivergence()


def test_the_objective_reaches_every_installed_method():
    methods: dict[str, Any] = {name: cls() for name, cls in registry().items()}  # type: ignore[call-arg]
    objective = sl.NegatedLogitDifference()
    jobs = Comparison([toy.model()], [toy.task()], methods, objective=objective).jobs()
    assert {job.label: job.method.objective for job in jobs} == dict.fromkeys(methods, objective)


def test_methods_that_differ_in_their_objective_alone_keep_it_or_are_refused():
    methods = [ByIndex(), ByIndex(objective=sl.KLDivergence())]
    with pytest.raises(ValueError, match=r"are the same once .* objective=None to leave each"):
        Comparison([toy.model()], [toy.task()], methods)
    jobs = Comparison([toy.model()], [toy.task()], methods, objective=None).jobs()
    assert [job.method for job in jobs] == methods


def test_the_methods_of_the_presets_work_on_the_task_loss_unless_for_another_target():
    for preset in PRESETS.values():
        faithful = {n for n, m in preset.compared_methods.items() if m.objective != sl.TaskLoss()}
        assert faithful <= {"node-pruning-faithful"}


def test_the_short_door_takes_every_field():
    optional = {f.name: f.type for f in fields(Comparison) if f.kw_only}
    hints = {
        name: hint.__forward_arg__ for name, hint in ComparisonSettings.__annotations__.items()
    }
    assert hints == optional


def test_a_deterministic_method_runs_once():
    installed: dict[str, Any] = dict(registry())
    methods: dict[str, Any] = {
        **{name: cls() for name, cls in installed.items()},
        "other": ByIndex(),
        "refined random": Refined(method=installed["random"]()),
    }
    jobs = Comparison([toy.model()], [toy.task()], methods, seeds=[5, 3]).jobs()
    seeds: dict[str, list[int]] = {}
    for job in jobs:
        seeds.setdefault(job.label, []).append(job.seed)
        assert job.blank().deterministic == job.method.is_deterministic
    once = {"attribution-patching", "acdc", "magnitude", "refined"}  # refined: attribution
    assert seeds == {name: [5] if name in once else [5, 3] for name in methods}


@pytest.mark.parametrize("name", ["attribution-patching", "acdc", "magnitude"])
def test_a_deterministic_method_finds_the_same_with_another_seed(name):
    cls: Any = registry()[name]
    method = cls()
    model, task = toy.model(), toy.task()
    graph = ComponentGraph.from_model(model)
    first, second = (
        method.discover(model, graph, task, ablation=sl.MeanAblation(), seed=seed)
        for seed in (0, 7)
    )
    assert first.circuit == second.circuit
    for block, scores in first.scores.edges.items():
        assert torch.equal(scores, second.scores.edges[block])


def test_another_comparison_of_one():
    first = Comparison([toy.model()], [toy.task()], [ByIndex()])
    second = replace(first, seeds=[4, 5], questions=())
    assert [job.seed for job in second.jobs()] == [4, 5]
    assert second.models is first.models


def test_labels():
    pruning: Any = registry()["node-pruning"]
    questions = [Minimality(), RandomSubsets(), Minimality(nodes=2)]
    jobs = Comparison(
        [toy.model()],
        [toy.task()],
        [pruning(), pruning(n_steps=5), ByIndex()],
        questions=questions,
    ).jobs()
    assert [job.label for job in jobs] == ["node-pruning", "node-pruning n_steps=5", "ByIndex"]
    assert list(jobs[0].blank().questions) == ["minimality", "subsets", "minimality nodes=2"]
    assert jobs[0].blank().questions["minimality nodes=2"] == {
        "type": "Minimality", "nodes": 2, "dispensable_below": 0.01,
    }  # fmt: skip
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
        ({"target": 0.1}, r"target is Target\(task_loss=...\), or None, got 0.1"),
        ({"tasks": toy.task()}, r"tasks must be a list, got Task; pass \[it\]"),
        ({"methods": ByIndex()}, r"methods must be a list, got ByIndex; pass \[it\]"),
        ({"methods": ["random"]}, "methods are objects such as NodePruning.., got 'random'"),
        ({"methods": {"mine": ByIndex}}, "methods are objects such as NodePruning.., got <class"),
        ({"graph": "component"}, "as ComponentGraph.from_model does, got 'component'"),
        ({"ablation": "mean"}, "ablation is an object such as ZeroAblation.., got 'mean'"),
        ({"objective": "kl"}, "objective is an object such as TaskLoss.., or None, got 'kl'"),
        ({"random_draws": -1}, "random_draws must be 0 or more, got -1"),
        ({"questions": ["minimality"]}, "questions are objects such as Minimality.., got 'minim"),
        ({"questions": Minimality()}, "questions must be a list, got Minimality"),
        ({"questions": [Minimality(), Minimality()]}, "questions must differ"),
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
    comparison = object.__new__(Comparison)
    # As for users: the checks of types that run under test would come first.
    construct = inspect.unwrap(Comparison.__init__)

    def jobs() -> tuple[Job, ...]:
        construct(comparison, **given)
        return comparison.jobs()

    with pytest.raises(ValueError, match=message):
        jobs()


def test_prompts_in_tokens_that_a_model_lacks_fail_their_job_by_name():
    task = toy.task()
    held_out = task.split("held_out")
    beyond = replace(task, held_out=replace(held_out, clean=held_out.clean + 1000))
    (job,) = Comparison([toy.model()], [beyond], [ByIndex()]).jobs()
    error = run_job(job).record.error
    assert error is not None
    assert "clean has the token 10" in error
    assert "the model's vocabulary ends at" in error
