"""Tasks in which the indentation of one line decides that of the next."""

from sparse_lens.evals.tasks.splits import Splits
from sparse_lens.evals.tasks.task_spec import TaskSpec

# Functions that end in a block: the loop that follows may be in the block or after it.
_BLOCKS = Splits(
    train=(
        "def $s($x, $y):\n    if $x:\n        $u = $y\n",
        "def $s_$t($x):\n    while $x.$y:\n        $u = $8\n",
        "def $s($x, $y=$8):\n    with $x.$u:\n        $y($x)\n",
        "def $s($x):\n    for $y in $x:\n        $u = $y.$v\n",
    ),
    validation=(
        "def $s($x, $u):\n    if not $x:\n        $y = $u.$v\n",
        "def $s($x):\n    $y = $8\n    while $y:\n        $u($x)\n",
        "def $s_$t($x, $y):\n    if $x is $y:\n        $u = $x - $8\n",
    ),
    held_out=(
        "def $s_$t($x, $u):\n    if $x.$u:\n        $y = $x + $8\n",
        "def $s($y, $x):\n    while $x($8):\n        $v = $y\n",
        "def $s($x, $y=None):\n    for $u in $y:\n        $x.$v($u)\n",
        "def $s($x):\n    $y = $x.$u\n    if $y:\n        $y += $8\n",
    ),
)

# The answers are one space short, as the last space belongs to the token of the next word.
INDENT_FOR = TaskSpec(
    name="indent_for",
    question="Is the body of this for loop two levels deep, or three?",
    answers=(" " * 7, " " * 11),
    openings=_BLOCKS,
    statements=Splits(
        train=(
            "$(   |       ) for $a in $b:\n",
            "$(   |       ) for $a_$b in $x:\n",
            "$(   |       ) for $a in $x.$b:\n",
            "$(   |       ) for $a in $x($b):\n",
        ),
        validation=(
            "$(   |       ) for $a in $x.$b.$c:\n",
            "$(   |       ) for $a_$b in $x.$c:\n",
            "$(   |       ) for $a, $b in $x:\n",
        ),
        held_out=(
            "$(   |       ) for $a_$b_$c in $x:\n",
            "$(   |       ) for $a in $b.$x($c):\n",
            "$(   |       ) for $a_$b, $c in $x:\n",
            "$(   |       ) for $a in $x[$1].$b:\n",
        ),
    ),
)
