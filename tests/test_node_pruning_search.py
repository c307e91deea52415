"""The search over node pruning's settings, on a model whose circuit is known."""

import pytest

pytest.importorskip("optuna")

import copy
from dataclasses import replace

import torch

import sparse_lens as sl
from sparse_lens.node_pruning_search import NodePruningSearch
from sparse_lens.target import Target
from tests import planted

BASE = sl.NodePruning(n_steps=20, learning_rate=3e-2, batch_size=32, k_coef=1e-4, removal_passes=0)
SPACE = {"k_coef": (1e-4, 1e-1), "learning_rate": (1e-3, 1e-1), "n_steps": (5.0, 30.0)}
SEARCH = NodePruningSearch(base=BASE, space=SPACE, n_trials=4)


@pytest.fixture(scope="module")
def setting():
    model = planted.sparse_model()
    graph, task = sl.ChannelGraph.from_model(model), planted.task()
    return model, graph, task, sl.bind(model, graph, sl.MeanAblation(tokens=task.train.clean))


def discover(search, setting, **options):
    *subject, ablation = setting
    return search.discover(*subject, ablation=ablation, **options)


def test_every_run_meets_the_search_s_target(setting):
    found = discover(replace(SEARCH, n_trials=1, target=Target(0.02)), setting)
    alone = discover(replace(BASE, target=Target(0.02)), setting)
    assert found.circuit == alone.circuit
    assert found.chosen is not None
    assert found.chosen.loss <= 0.02


def test_the_first_run_is_the_base_s_after_an_interruption_in_it_too(setting, tmp_path):
    search = replace(SEARCH, n_trials=1, journal=str(tmp_path / "journal.log"))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sl.NodePruning, "discover", interrupted)
        with pytest.raises(KeyboardInterrupt):
            discover(search, setting)
    (row,) = discover(search, setting).history
    assert {name: row[name] for name in SPACE} == {name: getattr(BASE, name) for name in SPACE}


def test_the_best_of_the_trials_is_returned_with_the_cost_of_all(setting):
    found = discover(SEARCH, setting)
    assert len(found.history) == 4
    # The first trial has the base's own settings.
    first = {name: getattr(BASE, name) for name in SPACE}
    assert {name: found.history[0][name] for name in SPACE} == first
    runs = []
    for row in found.history:
        settings = {name: type(first[name])(row[name]) for name in SPACE}
        runs.append(discover(replace(BASE, **settings), setting))
    sizes = [run.circuit.n_edges if run.chosen.met_target else setting[1].n_edges for run in runs]
    assert [row["value"] for row in found.history] == sizes
    assert len(set(sizes)) > 1
    best = runs[sizes.index(min(sizes))]
    assert found.circuit == best.circuit
    assert found.method == SEARCH
    assert found.cost.forward_passes == sum(run.cost.forward_passes for run in runs)
    assert found.cost.backward_passes == sum(run.cost.backward_passes for run in runs)


def test_an_interrupted_search_ends_as_if_it_had_not_been(setting, tmp_path):
    whole = discover(SEARCH, setting)
    search = replace(SEARCH, journal=str(tmp_path / "trials.log"))
    discover(replace(search, n_trials=2), setting)
    calls = []

    class Interrupted(sl.TaskLoss):
        def __call__(self, *arguments):
            calls.append(arguments)
            if len(calls) > 10:
                raise KeyboardInterrupt
            return super().__call__(*arguments)

    with pytest.raises(KeyboardInterrupt):
        discover(replace(search, objective=Interrupted()), setting)
    resumed = discover(search, setting)
    assert resumed.history == whole.history
    assert resumed.circuit == whole.circuit
    assert resumed.cost.forward_passes == whole.cost.forward_passes
    # Nothing is left to run but the best trial again.
    again = discover(search, setting)
    assert again.circuit == whole.circuit


def test_another_task_in_the_same_journal_is_another_search(setting, tmp_path):
    search = replace(SEARCH, journal=str(tmp_path / "trials.log"), n_trials=1)
    discover(search, setting)
    model, graph, task, ablation = setting
    other = sl.Task("other", task.train, task.validation, task.held_out)
    assert len(discover(search, (model, graph, other, ablation)).history) == 1
    assert len(discover(search, setting, seed=1).history) == 1


def test_another_model_or_ablation_in_the_same_journal_is_another_search(setting, tmp_path):
    """Also where the graph is the same: its weights are what counts."""
    search = replace(SEARCH, journal=str(tmp_path / "trials.log"), n_trials=1, goal="loss")
    discover(search, setting)
    model, graph, task, _ = setting
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.W_U.mul_(0.7)
    assert sl.ChannelGraph.from_model(other) == graph
    zero = sl.ZeroAblation()
    for subject in ((other, graph, task, zero), (model, graph, task, zero)):
        found = discover(search, subject)
        assert found.history == discover(replace(search, journal=None), subject).history


@pytest.mark.parametrize("goal", ["n_nodes", "loss"])
def test_other_goals(setting, goal):
    found = discover(replace(SEARCH, goal=goal, n_trials=2), setting)
    assert found.chosen is not None
    value = found.circuit.n_nodes if goal == "n_nodes" else found.chosen.loss
    assert min(row["value"] for row in found.history) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_trials": 0}, "n_trials"),
        ({"space": {"depth": (1.0, 2.0)}}, "'depth', which is no number"),
        ({"space": {"calibrate": (1.0, 2.0)}}, "no number"),
        ({"space": {"k_coef": (0.0, 2.0)}}, "0 < low < high"),
    ],
)
def test_what_is_no_search_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NodePruningSearch(**options)


def test_of_several_prices_of_the_base_the_first_run_has_the_middle_one(setting):
    base = replace(BASE, k_coef=(1e-2, 1e-4, 1e-3))
    found = discover(replace(SEARCH, base=base, n_trials=1), setting)
    assert found.history[0]["k_coef"] == 1e-3
    assert found.circuit == discover(replace(BASE, k_coef=1e-3), setting).circuit
    # What is not searched stays as it is.
    several = replace(SEARCH, base=base, space={"learning_rate": (1e-3, 1e-1)}, n_trials=1)
    assert discover(several, setting).cost.backward_passes == 3 * BASE.n_steps
    with pytest.raises(ValueError, match="no number"):
        replace(SEARCH, space={"betas": (0.1, 1.0)})
