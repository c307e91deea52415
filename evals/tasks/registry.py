"""The tasks by name, in groups."""

from types import MappingProxyType

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sparse_lens.evals.tasks.base_spec import Spec
from sparse_lens.evals.tasks.building import build_task
from sparse_lens.evals.tasks.families.booleans import BOOLEAN_FEW_SHOT, BOOLEAN_INSTRUCTION
from sparse_lens.evals.tasks.families.clauses import ELSE_ELIF, ENUMERATE_RANGE, FINAL_KWARG
from sparse_lens.evals.tasks.families.delimiters import (
    BRACKET_BRACE,
    BRACKET_COUNTING,
    FSTRING_BRACE,
    SINGLE_DOUBLE_QUOTE,
)
from sparse_lens.evals.tasks.families.docstrings import DOCSTRING
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
from sparse_lens.evals.tasks.families.names import GENDERED_PRONOUN, INDIRECT_OBJECT
from sparse_lens.evals.tasks.families.nonsense import NONSENSE
from sparse_lens.evals.tasks.families.variables import (
    CLASS_INIT,
    SET_OR_STRING,
    SET_OR_STRING_FIXEDVARNAME,
    VAR_SWAP,
    WITH_OPEN,
)
from sparse_lens.evals.tasks.families.years import GREATER_THAN
from sparse_lens.evals.tasks.splits import USUAL_SIZES
from sparse_lens.task import Task

_SPECS: MappingProxyType[str, tuple[Spec, ...]] = MappingProxyType(
    {
        "python": (
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
            FINAL_KWARG,
            WITH_OPEN,
            ELSE_ELIF,
            FSTRING_BRACE,
            ENUMERATE_RANGE,
        ),
        "language": (
            INDIRECT_OBJECT,
            GREATER_THAN,
            GENDERED_PRONOUN,
            DOCSTRING,
            BOOLEAN_INSTRUCTION,
            BOOLEAN_FEW_SHOT,
        ),
        "control": (NONSENSE,),
    }
)


GROUPS = tuple(_SPECS)
"""Groups: binary choices in Python code; prompts in English; a control task without a rule."""


def names(group: str = "python") -> tuple[str, ...]:
    """The names of the tasks of a group, or of all groups (`all`), in the order of reports.

    Raises:
        ValueError: when there is no such group.
    """
    if group != "all" and group not in _SPECS:
        raise ValueError(f"no group of tasks {group!r}; there are {', '.join(GROUPS)} and all.")
    return tuple(
        spec.name
        for group_name, specs in _SPECS.items()
        if group in ("all", group_name)
        for spec in specs
    )


def spec(name: str) -> Spec:
    """The built-in task of a name.

    Raises:
        ValueError: for a name that no task has.
    """
    for specs in _SPECS.values():
        for candidate in specs:
            if candidate.name == name:
                return candidate
    raise ValueError(f"no task {name!r}; there are {', '.join(names('all'))}.")


def build(
    task: str | Spec,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    seed: int = 0,
    n_train: int = USUAL_SIZES.n_train,
    n_validation: int = USUAL_SIZES.n_validation,
    n_held_out: int = USUAL_SIZES.n_held_out,
    prepend_bos: bool = False,
) -> Task:
    """A built-in task by name, or a spec of your own, as tokens: see `build_task`.

    Raises:
        ValueError: for an unknown name, a slow tokenizer, or as `build_task` does.
    """
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
        prepend_bos=prepend_bos,
    )
