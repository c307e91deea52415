"""A run that was interrupted goes on exactly, and only as itself."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sparse_lens.ablation import InterchangeAblation, MeanAblation
from sparse_lens.baselines import AttributionPatching
from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference, Objective, TaskLoss
from sparse_lens.task import Prompts, Task
from tests.baselines.edge_pruning.problems import SHORT, TASK, discover, tiny_problem
from tests.patching import tiny
from tests.patching.test_context import state


class Interrupted(Objective):
    """KL that raises after so many calls."""

    needs_full_logits: ClassVar[bool] = True

    def __init__(self, calls: int) -> None:
        self._calls = calls

    def __call__(self, logits: Any, prompts: Prompts, full_logits: Any = None) -> Any:
        self._calls -= 1
        if self._calls < 0:
            raise KeyboardInterrupt
        return KLDivergence()(logits, prompts, full_logits)

    def __repr__(self) -> str:
        return repr(KLDivergence())


@pytest.mark.parametrize("kind", ["component", "channel"])
@pytest.mark.parametrize("writers", [False, True])
def test_resuming_equals_running_through(kind: str, writers: bool, tmp_path: Path) -> None:
    path = tmp_path / "gates.ckpt"
    settings: dict[str, Any] = {
        "n_steps": 9,
        "checkpoint": str(path),
        "checkpoint_every": 2,
        "writer_gates": writers,
    }
    unsaved: dict[str, Any] = settings | {"checkpoint": None}
    through = discover(kind, **unsaved)
    for calls in (4, 5):  # one is for the identity; then steps 3, 4 and 3, 4, 5, 6 are reached
        with pytest.raises(KeyboardInterrupt):
            discover(kind, **settings, objective=Interrupted(calls))
    resumed = discover(kind, **settings)
    again = discover(kind, **settings)  # has ended: takes no step
    for found in (resumed, again):
        assert found.history == through.history
        assert found.scores.by_name() == through.scores.by_name()
    assert resumed.cost.backward_passes == 9 - 6
    assert again.cost.backward_passes == 0
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "its seed is 0, here it is 1"),
        ({"learning_rate": 0.1}, "its learning_rate is 0.2, here it is 0.1"),
        ({"kind": "channel"}, "its graph is"),
        ({"task": Task("other", train=tiny.prompts(10, seed=9))}, "its objective with all gates"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"kind": "component", "checkpoint": str(tmp_path / "gates.ckpt")}
    discover(**settings)
    with pytest.raises(ValueError, match=f"of another run: {message}"):
        discover(**(settings | change))


def test_a_checkpoint_with_another_ablation_is_refused(tmp_path: Path) -> None:
    model, graph = tiny_problem("component")
    method = EdgePruning(**SHORT, checkpoint=str(tmp_path / "gates.ckpt"))
    method.discover(model, graph, TASK, ablation=InterchangeAblation())
    with pytest.raises(ValueError, match="objective with all gates half open"):
        method.discover(model, graph, TASK, ablation=MeanAblation(tokens=TASK.train.clean))


def test_a_checkpoint_of_gates_that_started_elsewhere_is_refused(tmp_path: Path) -> None:
    model, graph = tiny_problem("component")
    first, other = (
        AttributionPatching(objective=o) for o in (TaskLoss(), NegatedLogitDifference())
    )
    scores = {
        method: method.discover(model, graph, TASK, ablation=InterchangeAblation()).scores
        for method in (first, other)
    }
    path = str(tmp_path / "gates.ckpt")
    for initial, refused in ((scores[first], False), (scores[first], False), (scores[other], True)):
        method = EdgePruning(**SHORT, checkpoint=path, initial=initial)
        with pytest.raises(ValueError, match="initial order") if refused else nullcontext():
            method.discover(model, graph, TASK, ablation=InterchangeAblation())


def test_a_checkpoint_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        discover("component", checkpoint=str(tmp_path / "missing" / "gates.ckpt"))


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_the_model_is_left_as_found_when_it_is_interrupted(kind: str) -> None:
    model, graph = tiny_problem(kind)
    next(iter(model.parameters())).requires_grad_(False)
    before, needed = state(model), [p.requires_grad for p in model.parameters()]
    method = EdgePruning(**SHORT, objective=Interrupted(3))
    with pytest.raises(KeyboardInterrupt):
        method.discover(model, graph, TASK, ablation=InterchangeAblation())
    assert state(model) == before
    assert [p.requires_grad for p in model.parameters()] == needed
    assert all(p.grad is None for p in model.parameters())
