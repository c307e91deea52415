"""Ready-made comparisons ask nothing that their models cannot be asked."""

import pytest

from sparse_lens.commands.compare_presets import PRESETS
from sparse_lens.evals import tasks
from sparse_lens.models import zoo
from sparse_lens.models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def carried() -> list[str]:
    """Python tasks that the embedded models' tokenizer, one for all of them, can carry."""
    problems = tasks.validate(load_tokenizer(zoo.resolve("py-sparse")), "python")
    return [name for name, problem in problems.items() if problem is None]


@pytest.mark.parametrize("name", PRESETS)
def test_every_task_can_be_put_to_every_model(name: str, carried: list[str]) -> None:
    preset = PRESETS[name]
    vocabularies = [load_tokenizer(zoo.resolve(str(model))).get_vocab() for model in preset.models]
    assert vocabularies == [load_tokenizer(zoo.resolve("py-sparse")).get_vocab()] * len(
        preset.models
    )
    assert set(preset.tasks) <= set(carried)


def test_the_full_one_asks_all_that_can_be_asked(carried: list[str]) -> None:
    assert list(PRESETS["full"].tasks) == carried
