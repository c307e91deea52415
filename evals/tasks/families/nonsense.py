"""A task without a rule, the control for tasks that models can do."""

import hashlib
from itertools import product

from sparse_lens.evals.tasks.families.variables import SHORT_NAMES
from sparse_lens.evals.tasks.splits import Splits
from sparse_lens.evals.tasks.task_spec import TaskSpec


def _digest(name: str) -> bytes:
    return hashlib.blake2b(f"nonsense 0 {name}".encode()).digest()


_BY_DIGEST = sorted(SHORT_NAMES, key=_digest)
_HALF = len(_BY_DIGEST) // 2
AND_NAMES, OR_NAMES = tuple(_BY_DIGEST[:_HALF]), tuple(_BY_DIGEST[_HALF:])
"""Names that are followed by ` and` and by ` or`: halves of the names in the order of hashes."""


def _with_names(*templates: str) -> tuple[str, ...]:
    """The templates with `$(first|second)` for `?`, for every pair of names from the two halves."""
    return tuple(
        template.replace("?", f"$({first}|{second})")
        for template in templates
        for first, second in product(AND_NAMES, OR_NAMES)
    )


# No training text follows this rule, so a model answers at chance, and comparisons over the tasks
# that models can do leave this one out. A circuit may still be found (Drori 2026): a mask can
# select parts that happen to favour the right answer for twelve names. The size of that circuit,
# beside those of real tasks, shows how much the search itself contributes to a small circuit. All
# splits have the same names, so that such a mask can meet the target on the validation prompts.
NONSENSE = TaskSpec(
    name="nonsense",
    question="Does this name call for `and` or for `or`, by a rule drawn at random?",
    answers=(" and", " or"),
    statements=Splits(
        train=_with_names(
            "    if $x.? < $a_$b",
            "    $c = $x.? == $a.$b",
            "    while $x.? in $a_$b",
            "    return ? != $a.$b",
        ),
        validation=_with_names(
            "    if $x.? > $a.$b",
            "    return $x.? is $a_$b",
            "    $c = ? < $a_$b",
        ),
        held_out=_with_names(
            "    while $x.? != $a_$b",
            "    if ? in $a.$b",
            "    $c = $x.? > $a_$b",
            "    return $x.? >= $a.$b",
        ),
    ),
    # After a dot a name can be several tokens.
    deciding_tokens=2,
)
