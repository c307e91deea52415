"""Tasks in which the type, the use or the identity of a variable decides the answer."""

from sparse_lens.evals.tasks.splits import Splits
from sparse_lens.evals.tasks.task_spec import TaskSpec
from sparse_lens.task import SPLITS

# Names for tasks whose answer is a name: words that are single tokens in a vocabulary of 1,024. All
# splits share them, as a circuit may not be able to copy a name that it was not found on.
SHORT_NAMES = (
    *("name", "data", "line", "file", "value", "path"),
    *("result", "type", "key", "node", "text", "args"),
)

SET_OR_STRING = TaskSpec(
    name="set_or_string",
    question="Was this variable made a set, which is added to, or a string, which is extended?",
    answers=(".add", " +="),
    statements=Splits(
        train=(
            "    $a = $(set|str)()\n    $b = $x.$c\n    $a",
            "    $a = $(set|str)()\n    for $b in $x:\n        $a",
            "    $b = $1\n    $a = $(set|str)()\n    $c = $y\n    $a",
            "    $a = $(set|str)($x)\n    $b = $c\n    $a",
        ),
        validation=(
            "    $a = $(set|str)()\n    $b = $c + $1\n    $a",
            "    $a = $(set|str)()\n    while $x:\n        $a",
            "    $a_$d = $(set|str)()\n    $b = $y\n    $a_$d",
            "    $a = $(set|str)()\n    if $y.$c:\n        $a",
        ),
        held_out=(
            "    $a = $(set|str)()\n    $b = $x[$1]\n    $a",
            "    $a = $(set|str)()\n    $b.$c = $y\n    $a",
            "    $a = $(set|str)()\n    for $b, $c in $x:\n        $a",
            "    $a_$d = $(set|str)()\n    if $b is $y:\n        $a_$d",
            "    $a = $(set|str)()\n    $b($x, $c)\n    $a",
        ),
    ),
)


def _with_one_name(
    templates: tuple[str, ...], letters: tuple[str, ...], name: str
) -> tuple[str, ...]:
    """The templates with a name in place of letters."""
    for letter in letters:
        templates = tuple(template.replace(letter, name) for template in templates)
    return templates


SET_OR_STRING_FIXEDVARNAME = TaskSpec(
    name="set_or_string_fixedvarname",
    question="The same of a variable that is always called current: is it a set or a string?",
    answers=SET_OR_STRING.answers,
    statements=Splits(
        *(
            _with_one_name(SET_OR_STRING.statements.of(split), ("$a_$d", "$a"), "current")
            for split in SPLITS
        )
    ),
)

VAR_SWAP = TaskSpec(
    name="var_swap",
    question="Which of the two names has not been given a value from the other yet?",
    answers=(" $a", " $b"),
    statements=Splits(
        train=(
            "    $($a|$b), $($b|$a) = $($b|$a),",
            "    if $x:\n        $($a|$b), $($b|$a) = $($b|$a),",
            "    $c = $d[$1]\n    $($a|$b), $($b|$a) = $($b|$a),",
            "    $c = $1\n    $($a|$b).$d, $($b|$a).$d = $($b|$a).$d,",
        ),
        validation=(
            "    $c = $d\n    $($a|$b), $($b|$a) = $($b|$a),",
            "    $c($x)\n    $($a|$b), $($b|$a) = $($b|$a),",
            "    while $x:\n        $($a|$b), $($b|$a) = $($b|$a),",
            "    $($a|$b).$d, $($b|$a).$d = $($b|$a).$d,",
        ),
        held_out=(
            "    $c = $x[$1]\n    $($a|$b), $($b|$a) = $($b|$a),",
            "    for $c in $x:\n        $($a|$b), $($b|$a) = $($b|$a),",
            "    if $x < $y:\n        $($a|$b), $($b|$a) = $($b|$a),",
            "    $c = $x.$e\n    $($a|$b).$d, $($b|$a).$d = $($b|$a).$d,",
        ),
    ),
    identifiers=SHORT_NAMES,
    deciding_tokens=3,
)

# The attributes are compounds with the same second half: with `.width = width`, a trigram that is
# frequent in all code would give the answer.
CLASS_INIT = TaskSpec(
    name="class_init",
    question="Which parameter does this attribute take its value from?",
    answers=(" $a", " $b"),
    openings=None,
    statements=Splits(
        train=(
            "class $S:\n    def __init__(self, $a_$c, $b_$c):\n        self.$($a|$b)_$c =",
            "class $S:\n    def __init__(self, $a_$c, $b_$c, $d):\n"
            "        self.$d = $d\n        self.$($a|$b)_$c =",
            "class $S($T):\n    def __init__(self, $d, $a_$c, $b_$c):\n"
            "        self.$d = $d\n        self.$($a|$b)_$c =",
            "class $S($T):\n    def __init__(self, $a_$c=$1, $b_$c=$2):\n"
            "        self.$($a|$b)_$c =",
        ),
        validation=(
            "class $S($T):\n    def __init__(self, $a_$c, $b_$c):\n        self.$($a|$b)_$c =",
            "class $S:\n    def __init__(self, $a_$c, $b_$c, $d=$1):\n        self.$($a|$b)_$c =",
            "class $S:\n    def __init__(self, $a_$c, $b_$c):\n"
            "        self.$d = $1\n        self.$($a|$b)_$c =",
        ),
        held_out=(
            "class $S:\n    def __init__(self, $d, $a_$c, $b_$c):\n        self.$($a|$b)_$c =",
            "class $S:\n    def __init__(self, $a_$c, $d, $b_$c):\n"
            "        self.$d = $d\n        self.$($a|$b)_$c =",
            "class $S($T):\n    def __init__(self, $a_$c, $b_$c=$1):\n        self.$($a|$b)_$c =",
            "class $S:\n    def __init__(self, $a_$c, $b_$c):\n"
            "        self.$d = $e($1)\n        self.$($a|$b)_$c =",
        ),
    ),
    identifiers=SHORT_NAMES,
    # An attribute can be more tokens than the name: `.`, `d`, `ata`.
    deciding_tokens=3,
)

# Reading or writing is mentioned well before the file is opened; the tokens right before the answer
# are the same for both.
WITH_OPEN = TaskSpec(
    name="with_open",
    question="Is this file opened to be read, or to be written?",
    answers=("r", "w"),
    openings=None,
    statements=Splits(
        train=(
            'def $(read|write)_$a($x):\n    with open($x, "',
            'def $(load|save)_$a($x, $y):\n    $b = $x.$c\n    with open($b, "',
            'def $a($x):\n    print("$(reading|writing) $b $c")\n    with open($x, "',
            'class $S:\n    def $(read|write)(self, $x):\n        with open($x, "',
        ),
        validation=(
            'def $(load|save)_$a($x):\n    with open($x.$b, "',
            'def $(read|write)_$a($x, $y=$1):\n    $b = $x\n    with open($b, "',
            'def $a_$b($x):\n    print("$(reading|writing) $c")\n    with open($x, "',
        ),
        held_out=(
            'class $S:\n    def $(load|save)_$a(self, $x):\n        with open($x, "',
            'def $(read|write)_$a($x, $y):\n    with open($x + $y, "',
            'def $a($x):\n    $b = $x.$c\n    print("$(reading|writing)", $b)\n    with open($b, "',
            'def $(load|save)_$a($x):\n    if $x:\n        with open($x, "',
        ),
    ),
    # A verb can be several tokens.
    deciding_tokens=3,
)
