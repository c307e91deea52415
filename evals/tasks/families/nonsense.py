"""A task without a rule: the control of tasks that models can do."""

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
"""Names that call for ` and`, and those that call for ` or`: an even split by hashes."""


def _with_names(*templates: str) -> tuple[str, ...]:
    """The templates with every name of one half against every name of the other for `?`."""
    return tuple(
        template.replace("?", f"$({first}|{second})")
        for template in templates
        for first, second in product(AND_NAMES, OR_NAMES)
    )


# The rule is in no text, so a model answers by chance and its tasks in common with others leave
# this one out. But a circuit can be found for it all the same (Drori 2026): a mask may pick parts
# that happen to lean the right way for twelve names. Its size, beside those for real tasks, says
# how much of a small circuit is the search's doing. All splits have the same names, so that such
# a mask can meet the target on the validation prompts.
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
    # A name after a dot can be several tokens.
    deciding_tokens=2,
)
