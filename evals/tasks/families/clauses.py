"""Tasks in which an earlier part of a statement decides how it ends."""

from sparse_lens.evals.tasks.splits import Splits
from sparse_lens.evals.tasks.task_spec import TaskSpec

# A parameter after one with a default must have a default, too. The tokenizer must have `=None`
# and `):` with the newline after it as single tokens.
FINAL_KWARG = TaskSpec(
    name="final_kwarg",
    question="Does the last parameter need a default, because one before it has one?",
    answers=("=None", "):\n"),
    statements=Splits(
        train=(
            "    def $a($b$(=|_)$1, $c_$d",
            "    def $a($x, $b$(=|_)$1, $c_$d",
            "    def $a($b$(=|_)$1, $c_$d_$e",
            "    async def $a($b$(=|_)$1, $c_$d",
        ),
        validation=(
            "    def $a_$e($b$(=|_)$1, $c_$d",
            "    def $a($x, $y, $b$(=|_)$1, $c_$d_$e",
            "    $f = $2\n    def $a($b$(=|_)$1, $c_$d",
        ),
        held_out=(
            "    def $a_$e($x, $b$(=|_)$1, $c_$d",
            "    def $a($x, $y, $b$(=|_)$1, $c_$d",
            "    $f = $x.$e\n    def $a($b$(=|_)$1, $c_$d",
            "    if $x:\n        def $a($b$(=|_)$1, $c_$d",
        ),
    ),
)

# A colon always follows `else`, which a bigram predicts. So the prompts go on, for elif into its
# condition and for else past the colon into a statement.
ELSE_ELIF = TaskSpec(
    name="else_elif",
    question="Is this the condition of an elif, or a statement under else?",
    answers=(":\n", " ="),
    statements=Splits(
        train=(
            "    if $x:\n        $y = $1\n    $(elif not|else:) $a.$b_$c",
            "    if $x.$d:\n        return $1\n    $(elif not|else:) $a_$b.$c",
            "    if not $x:\n        $d($y)\n    $(elif not|else:) $a.$b.$c",
            "    if $x < $1:\n        $y = $d\n    $(elif not|else:) $a_$b.$c",
        ),
        validation=(
            "    if $x:\n        return $y\n    $(elif not|else:) $a.$b_$c",
            "    if $x == $1:\n        $y = $x\n    $(elif not|else:) $a.$b.$c",
            "    if $x is $y:\n        $d = $1\n    $(elif not|else:) $a_$b.$c",
        ),
        held_out=(
            "    if $x:\n        $d($y)\n    $(elif not|else:) $a_$b.$c",
            "    if $x > $y:\n        $x = $1\n    $(elif not|else:) $a.$b_$c",
            "    if not $x.$d:\n        return $y\n    $(elif not|else:) $a.$b.$c",
            "    if $x in $y:\n        $d += $1\n    $(elif not|else:) $a.$b_$c",
        ),
    ),
    deciding_tokens=2,
)

# With names of three words, the comma is out of reach of an n-gram model of order 5.
ENUMERATE_RANGE = TaskSpec(
    name="enumerate_range",
    question="Does this loop take an index with each element, or a number alone?",
    answers=(" enumerate", " range"),
    statements=Splits(
        train=(
            "    for $a$(, |_)$b_$c_$d in",
            "    $e = $1\n    for $a$(, |_)$b_$c_$d in",
            "    $e = [$a_$b_$c $(for|+) $d$(, | for )$a_$b_$c in",
            "    if $x:\n        for $a$(, |_)$b_$c_$d in",
        ),
        validation=(
            "    $e = $x\n    for $a$(, |_)$b_$c_$d in",
            "    return [$a_$b_$c $(for|+) $d$(, | for )$a_$b_$c in",
            "    while $x:\n        for $a$(, |_)$b_$c_$d in",
        ),
        held_out=(
            "    $e = $x.$f\n    for $a$(, |_)$b_$c_$d in",
            "    $x($1)\n    for $a$(, |_)$b_$c_$d in",
            "    return $x([$a_$b_$c $(for|+) $d$(, | for )$a_$b_$c in",
            "    if $x is $y:\n        for $a$(, |_)$b_$c_$d in",
        ),
    ),
    deciding_tokens=2,
)
