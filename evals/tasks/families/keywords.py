"""Tasks in which a keyword decides how its statement goes on."""

from sparse_lens.evals.tasks.splits import MODULE_OPENINGS, Splits
from sparse_lens.evals.tasks.task_spec import TaskSpec

# All expressions end in a name or a number, as a closing bracket would merge with the newline
# after it.
WHILE_RETURN_TRUE = TaskSpec(
    name="while_return_true",
    question="Does this condition head a loop, or is it what the function returns?",
    answers=(":\n", "\n"),
    statements=Splits(
        train=(
            "    $(while|return) $x.$a < $y",
            "    $(while|return) $x_$a and not $y",
            "    $(while|return) $a in $x.$b",
            "    $(while|return) $x[$1] > $y",
            "    $(while|return) len($x) != $a",
        ),
        validation=(
            "    $(while|return) $x.$a >= $b",
            "    $(while|return) not $x.$a or $y",
            "    $(while|return) $x($a) == $b",
            "    $(while|return) $a_$b is $x",
        ),
        held_out=(
            "    $(while|return) $x.$a != $y.$b",
            "    $(while|return) $a_$b <= $x",
            "    $(while|return) $a not in $x",
            "    $(while|return) $y and $x_$a",
            "    $(while|return) $x.$a + $1 > $b",
        ),
    ),
)

LAMBDA_FUNC = TaskSpec(
    name="lambda_func",
    question="Is this the parameter of a lambda, or the name of a function?",
    answers=(":", "("),
    statements=Splits(
        train=(
            "    $(return lambda|async def) $a_$b",
            "    $($d = lambda|async def) $a_$b_$c",
            "    $e = $1\n    $(return lambda|async def) $a_$b_$c",
            "    $e[$1] = $x\n    $(return lambda|async def) $a_$b",
        ),
        validation=(
            "    $(return lambda|async def) $a_$b_$c",
            "    $e = $x\n    $(return lambda|async def) $a_$b",
            "    if $x:\n        $(return lambda|async def) $a_$b",
            "    $e = $f\n    $($d = lambda|async def) $a_$b",
        ),
        held_out=(
            "    $e = $y + $1\n    $(return lambda|async def) $a_$b",
            "    $e = $f.$x\n    $(return lambda|async def) $a_$b_$c",
            "    if $x.$e:\n        $(return lambda|async def) $a_$b",
            "    $e($y)\n    $(return lambda|async def) $a_$b_$c",
            "    $e += $1\n    $($d = lambda|async def) $a_$b",
        ),
    ),
    # If ` async` is two tokens, the members of a pair are aligned with `$d = lambda` only.
    deciding_tokens=3,
)

FOR_WHILE = TaskSpec(
    name="for_while",
    question="Is this the variable of a for loop, or the condition of a while loop?",
    answers=(" in", ":\n"),
    statements=Splits(
        train=(
            "    $(for|while) $a_$b",
            "    $d = $1\n    $(for|while) $a_$b_$c",
            "    $d = $e\n    $(for|while) $a_$b",
            "    if $x:\n        $(for|while) $a_$b",
        ),
        validation=(
            "    $(for|while) $a_$b_$c",
            "    $d = $e + $1\n    $(for|while) $a_$b",
            "    if not $x:\n        $(for|while) $a_$b",
            "    $d($x)\n    $(for|while) $a_$b",
        ),
        held_out=(
            "    $d.$e = $y\n    $(for|while) $a_$b",
            "    $d = $x.$e\n    $(for|while) $a_$b_$c",
            "    if $x is $y:\n        $(for|while) $a_$b",
            "    $d += $1\n    $(for|while) $a_$b",
            "    $d, $e = $x\n    $(for|while) $a_$b",
        ),
    ),
)

# All expressions end in a name for the same reason as in while_return_true.
WITH_AS = TaskSpec(
    name="with_as",
    question="Is this value entered by a with statement, which names it, or the end of a line?",
    answers=(" as", "\n"),
    statements=Splits(
        train=(
            "    $(with|return) open($x).$a",
            "    $(with|return) $x.$a($b).$c",
            "    $(with|return) $x.$a.$b",
            "    $(async with|$c =) open($x, $1).$a",
        ),
        validation=(
            "    $(with|return) open($x, $1).$a",
            "    $(with|return) $a($x).$b_$c",
            "    $(with|return) $x.$a_$b",
            "    $(async with|$c =) $x($y).$a",
        ),
        held_out=(
            "    $(with|return) open($x.$a).$b",
            "    $(with|return) $a($x, $y).$b",
            "    $(with|return) $x.$a($b, $1).$c",
            "    $(with|return) $x[$1].$a",
            "    $(async with|$c =) open($x).$a",
        ),
    ),
    deciding_tokens=2,
)

IF_EQUALS = TaskSpec(
    name="if_equals",
    question="Is this name compared in a condition, or assigned to after it?",
    answers=(" ==", " ="),
    statements=Splits(
        train=(
            "    if $x$( and|:) $a.$b.$c",
            "    if not $x$( and|:) $a_$b.$c",
            "    if $x.$d$( and|:) $a_$b_$c",
            "    if $x$( and|:) $a.$b_$c",
        ),
        validation=(
            "    if $x$( and|:) $a_$b.$c",
            "    if not $x$( and|:) $a.$b.$c",
            "    if $x_$d$( and|:) $a.$b_$c",
            "    if $x > $1$( and|:) $a.$b.$c",
        ),
        held_out=(
            "    if $x$( and|:) $a_$b_$c",
            "    if not $x$( and|:) $a.$b_$c",
            "    if $x.$d$( and|:) $a.$b.$c",
            "    if $x is $y$( and|:) $a_$b.$c",
            "    if $x < $1$( and|:) $a.$b.$c",
        ),
    ),
)

IF_TERNARY = TaskSpec(
    name="if_ternary",
    question="Does this condition stand in an expression, which goes on, or head a block?",
    answers=(" else", ":\n"),
    statements=Splits(
        train=(
            "    $(return|if) $x $(if|and) $a_$b",
            "    $(return|if) $x.$d $(if|or) $a.$b",
            "    $(return|if) $x $(if|or) $a_$b_$c",
            "    $(return|if) $x($d) $(if|and) $a.$b",
        ),
        validation=(
            "    $(return|if) $x_$d $(if|and) $a.$b",
            "    $(return|if) $x $(if|and) not $a_$b",
            "    $(return|if) $x[$1] $(if|or) $a_$b",
            "    $(return|while) $x $(if|and) $a.$b",
        ),
        held_out=(
            "    $(return|if) $x.$d $(if|and) $a_$b",
            "    $(return|if) $x $(if|or) $a.$b_$c",
            "    $(return|if) $x($y) $(if|and) $a_$b",
            "    $(return|while) $x.$d $(if|and) $a_$b",
            "    $(return|if) $x + $1 $(if|or) $a.$b",
        ),
    ),
    deciding_tokens=2,
)

VAR_IF = TaskSpec(
    name="var_if",
    question="Is this value compared at the head of a block, or assigned?",
    answers=(":\n", "\n"),
    statements=Splits(
        train=(
            "    $(if|assert) $x.$a == $b_$c",
            "    $(if|assert) $x == $a.$b",
            "    $(if|assert) $x_$a == $b.$c",
            "    $(if|return) $x.$a == True",
        ),
        validation=(
            "    $(if|assert) $x == $a_$b",
            "    $(if|return) $x.$a == $b.$c",
            "    $(if|assert) $x.$a_$b == $1",
            "    $(if|return) $x_$a == None",
        ),
        held_out=(
            "    $(if|assert) $x.$a == $b.$c",
            "    $(if|return) $x == $a_$b",
            "    $(if|assert) $x_$a == None",
            "    $(if|return) $x.$a_$b == $1",
            "    $(if|assert) $x[$1] == $a.$b",
        ),
    ),
)

IMPORT_FROM = TaskSpec(
    name="import_from",
    question="Is something imported from this module, or the module itself?",
    answers=(" import", "\n"),
    openings=MODULE_OPENINGS,
    statements=Splits(
        train=(
            "$(from|import) $a.$b",
            "$(from|import) $a_$b.$c",
            "$(from|import) $a.$b.$c_$d",
        ),
        validation=(
            "$(from|import) $a.$b_$c",
            "$(from|import) $a_$b_$c",
            "$(from|import) $a.$b.$c.$d",
        ),
        held_out=(
            "$(from|import) $a.$b.$c",
            "$(from|import) $a_$b.$c_$d",
            "$(from|import) $a.$b_$c.$d",
            "$(from|import) $a_$b",
        ),
    ),
)
