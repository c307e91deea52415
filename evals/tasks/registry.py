"""The tasks by name."""

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sparse_lens.evals.tasks.families.delimiters import (
    BRACKET_BRACE,
    BRACKET_COUNTING,
    SINGLE_DOUBLE_QUOTE,
)
from sparse_lens.evals.tasks.families.indentation import INDENT_FOR
from sparse_lens.evals.tasks.families.keywords import (
    FOR_WHILE,
    IF_EQUALS,
    IF_TERNARY,
    IMPORT_FROM,
    LAMBDA_FUNC,
    VAR_IF,
    WHILE_RETURN_TRUE,
    WITH_AS,
)
from sparse_lens.evals.tasks.families.variables import (
    CLASS_INIT,
    SET_OR_STRING,
    SET_OR_STRING_FIXEDVARNAME,
    VAR_SWAP,
)
from sparse_lens.evals.tasks.task_spec import TaskSpec
from sparse_lens.evals.tasks.tokenising import build_task
from sparse_lens.task import Task

_SPECS = (
    SINGLE_DOUBLE_QUOTE,
    BRACKET_COUNTING,
    BRACKET_BRACE,
    SET_OR_STRING,
    SET_OR_STRING_FIXEDVARNAME,
    WHILE_RETURN_TRUE,
    LAMBDA_FUNC,
    FOR_WHILE,
    INDENT_FOR,
    WITH_AS,
    VAR_SWAP,
    IF_EQUALS,
    IF_TERNARY,
    VAR_IF,
    CLASS_INIT,
    IMPORT_FROM,
)


def names() -> tuple[str, ...]:
    """Every task's name, in the order of reports."""
    return tuple(spec.name for spec in _SPECS)


def spec(name: str) -> TaskSpec:
    """The task of that name.

    Raises:
        ValueError: when there is none.
    """
    for candidate in _SPECS:
        if candidate.name == name:
            return candidate
    raise ValueError(f"no task {name!r}; there are {', '.join(names())}.")


def build(
    task: str | TaskSpec,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    seed: int = 0,
    n_train: int = 128,
    n_validation: int = 64,
    n_held_out: int = 128,
) -> Task:
    """A task of ours by name, or one of your own, in a tokenizer's tokens: see `build_task`."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"tasks are built with a fast tokenizer, got {type(tokenizer).__name__}; a model "
            "without one takes Task(...) of your own tokens."
        )
    return build_task(
        spec(task) if isinstance(task, str) else task,
        tokenizer,
        seed=seed,
        n_train=n_train,
        n_validation=n_validation,
        n_held_out=n_held_out,
    )
