"""What every method refuses and does, and which methods are installed."""

from dataclasses import replace

import pytest
import torch

from sparse_lens.baselines import AttributionPatching, EdgePruning, RandomScores
from sparse_lens.method import Method, registry
from sparse_lens.node_pruning import NodePruning
from tests import planted


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("method", [AttributionPatching(), NodePruning(), EdgePruning()])
def test_tasks_in_tokens_that_a_model_lacks_are_refused(method: Method, split: str) -> None:
    problem, task = planted.problems()["dense, component, mean"], planted.task()
    prompts = task.split(split)
    beyond = replace(prompts, corrupted=prompts.corrupted + 1000)
    asked = replace(task, **{split: beyond})
    with pytest.raises(ValueError, match=r"corrupted has the token 10.*vocabulary ends at"):
        method.discover(problem.model, problem.graph, asked, ablation=problem.ablation)


@pytest.mark.parametrize("method", registry().values())
def test_prompts_are_no_task(method: type[Method]) -> None:
    problem, prompts = planted.problems()["dense, component, mean"], planted.task().train
    with pytest.raises(ValueError, match=r"takes a Task, got Prompts; .* Task\(name, train="):
        method().discover(problem.model, problem.graph, prompts, ablation=problem.ablation)  # type: ignore[arg-type,call-arg]


@pytest.mark.parametrize("method", [NodePruning(n_steps=2), EdgePruning(n_steps=2)])
def test_gates_are_learned_also_where_gradients_are_off(method: Method) -> None:
    """As in notebooks that begin with torch.set_grad_enabled(False)."""
    problem = planted.problems()["dense, component, mean"]

    def scores() -> dict[str, float]:
        return method.discover(
            problem.model, problem.graph, planted.task(), ablation=problem.ablation
        ).scores.by_name()

    expected = scores()
    with torch.no_grad():
        assert scores() == expected
        assert not torch.is_grad_enabled()


def test_our_methods_are_installed() -> None:
    installed = registry()
    assert installed["node-pruning"] is NodePruning
    assert installed["attribution-patching"] is AttributionPatching
    assert installed["random"] is RandomScores
    assert list(installed) == sorted(installed)
    assert all(issubclass(method, Method) for method in installed.values())


def test_a_package_adds_a_method(install_package) -> None:
    before = registry()
    assert "theirs" not in before
    source = "from sparse_lens.baselines import RandomScores\n\nclass Theirs(RandomScores): ...\n"
    install_package("sparse_lens.methods", "theirs = their_package:Theirs", source)
    installed = registry()
    assert installed["theirs"].__name__ == "Theirs"
    assert set(installed) == {"theirs", *before}
