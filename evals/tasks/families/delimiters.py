"""Tasks in which an opening delimiter decides how its contents end or go on."""

from sparse_lens.evals.tasks.splits import Splits
from sparse_lens.evals.tasks.task_spec import TaskSpec

# With three words or more, the quote is out of reach of an n-gram model of order 5.
SINGLE_DOUBLE_QUOTE = TaskSpec(
    name="single_double_quote",
    question="Was this string opened with a double or a single quote?",
    answers=('")\n', "')\n"),
    statements=Splits(
        train=(
            "    print($(\"|')$a $b $c $d",
            "    raise ValueError($(\"|')$a $b: $c $d",
            "    $e = $x($(\"|')$a, $b $c $d",
            "    $x.$e($(\"|')$a $b $c",
        ),
        validation=(
            "    return $e($(\"|')$a of $b $c",
            "    print($x, $(\"|')$a $b $c",
            "    raise TypeError($(\"|')$a is $b $c",
            "    $x.$e.$f($(\"|')$a $b $c $d",
        ),
        held_out=(
            "    print($(\"|')$a and $b or $c",
            "    $e = $f.$x($(\"|')$a $b, $c $d",
            "    raise KeyError($(\"|')$a $b $c $d",
            "    assert $x($(\"|')$a by $b $c",
            "    $e_$f($(\"|')$a: $b $c",
        ),
    ),
)

BRACKET_COUNTING = TaskSpec(
    name="bracket_counting",
    question="Is one bracket open, or two?",
    answers=("]\n", "]]\n"),
    statements=Splits(
        train=(
            "    $a =$( [| [[)$b, $c, $d",
            "    return$( [| [[)$b, $1, $c",
            "    $a =$( [| [[)$1, $2, $3",
            "    $a.$e =$( [| [[)$b.$c, $d",
            "    $a =$( [| [[)$b_$c, $d, $e, $f",
        ),
        validation=(
            "    $a_$e =$( [| [[)$b, $c.$d",
            "    return$( [| [[)$b, $c, $d, $e",
            "    $a =$( [| [[)$x, $1, $y, $2",
            "    $a +=$( [| [[)$b, $c, $d",
        ),
        held_out=(
            "    $a =$( [| [[)$b, $c_$d",
            "    return$( [| [[)$1, $b, $2",
            "    $a.$e =$( [| [[)$b, $c, $d, $1",
            "    yield$( [| [[)$b, $c, $d",
            "    $x[$4] =$( [| [[)$a, $b, $c, $d, $e",
        ),
    ),
)

# The key has several parts, so that no frequent n-gram holds both the bracket and the answer. With
# a tokenizer that merges the closing quote and the answer, only the unquoted keys are used.
BRACKET_BRACE = TaskSpec(
    name="bracket_brace",
    question="Is this the first key of a dict, or the first element of a list?",
    answers=(":", ","),
    statements=Splits(
        train=(
            "    $a =$( {| [)$b_$c",
            '    $a =$( {| [)"$b_$c"',
            "    return$( {| [)$b.$c",
            "    $a.$e =$( {| [)$b_$c.$d",
            '    return$( {| [)"$b $c $d"',
        ),
        validation=(
            "    $a_$e =$( {| [)$b.$c",
            '    return$( {| [)"$b_$c"',
            '    $x.$e($a,$( {| [)"$b $c"',
            "    $a =$( {| [)$b + $c_$d",
        ),
        held_out=(
            "    $a.$e =$( {| [)$b_$c",
            '    $a.$e =$( {| [)"$b $c"',
            '    $a, $e = $1,$( {| [)"$b_$c"',
            "    $a[$1] =$( {| [)$b_$c.$d",
            "    return $x,$( {| [)$b.$c",
        ),
    ),
)

# An f-string without a variable so far is unlikely to end. It has three words or more for the same
# reason as in single_double_quote.
FSTRING_BRACE = TaskSpec(
    name="fstring_brace",
    question="Is a variable inserted into this string, or is it plain and ends?",
    answers=(" {", '")\n'),
    statements=Splits(
        train=(
            '    print($(f|b)"$a $b $c $d',
            '    $e = $x($(f|r)"$a $b $c',
            '    raise ValueError($(f|r)"$a $b: $c $d',
            '    $x.$e($(f|b)"$a, $b $c $d',
        ),
        validation=(
            '    print($x, $(f|b)"$a $b $c',
            '    raise TypeError($(f|r)"$a $b $c $d',
            '    $e_$f($(f|b)"$a of $b $c',
        ),
        held_out=(
            '    print($(f|r)"$a and $b or $c',
            '    $e = $f.$x($(f|b)"$a $b, $c $d',
            '    raise KeyError($(f|r)"$a is $b $c',
            '    assert $x($(f|b)"$a $b by $c',
        ),
    ),
)
