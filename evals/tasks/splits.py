"""What each split draws from: identifiers, and the code a prompt opens with."""

from dataclasses import dataclass

from sparse_lens.task import SPLITS


@dataclass(frozen=True)
class SplitSizes:
    """Prompts in each split of a task; all even."""

    n_train: int = 128
    n_validation: int = 64
    n_held_out: int = 128


USUAL_SIZES = SplitSizes()
"""Where nobody asks for other numbers."""


@dataclass(frozen=True)
class Splits:
    """Strings for each split, none of them in two splits.

    Raises:
        ValueError: when a split has none, or two splits share one.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for split in SPLITS:
            if not self.of(split):
                raise ValueError(f"split {split!r} is empty; give it at least one string.")
            for text in self.of(split):
                if owner.setdefault(text, split) != split:
                    raise ValueError(
                        f"splits {owner[text]!r} and {split!r} share {text!r}; what is found on "
                        "one split must be tested on another: make them disjoint."
                    )

    def of(self, split: str) -> tuple[str, ...]:
        """The strings of the split of that name."""
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}.")
        return getattr(self, split)


# Words like those of the training grammar, which uses none of these: a small vocabulary cuts both
# into the same kind of pieces, so a prompt asks about its construct and not about a rare word.
IDENTIFIERS = Splits(
    train=(
        *("harbor", "lantern", "falcon", "velvet", "copper", "marble", "willow"),
        *("saddle", "barrel", "candle", "ribbon", "anchor", "meadow"),
    ),
    validation=(
        *("canyon", "beacon", "goblet", "hammer", "ladder", "mirror", "needle"),
        *("oyster", "parrot", "pillow", "rabbit", "rocket", "sandal"),
    ),
    held_out=(
        *("shovel", "spider", "temple", "tunnel", "turtle", "violin", "walnut"),
        *("wagon", "zebra", "basket", "bucket", "cactus", "dragon", "wizard"),
    ),
)

# Openings use `$s` to `$z`, `$8` and `$9`, statements the other letters and digits and, as names in
# scope, the `$x` and `$y` of the functions. A function's body is indented by four.
FUNCTION_OPENINGS = Splits(
    train=(
        "def $s($x, $y):\n    $u = $x + $8\n",
        "def $s_$t($x):\n    $y = $x.$u\n",
        "def $s($x, $y=$8):\n    $u = $x[$9]\n",
        "$u = $8\n\ndef $s_$t($x, $y):\n",
        "def $s($x):\n    $y = len($x)\n    $u = $y\n",
    ),
    validation=(
        "def $s($x, $u, $y):\n    $v = $y - $8\n",
        "def $s($x):\n    $y = $x[$8:]\n",
        "def $s_$t($x, $y):\n    $u, $v = $x\n",
        "def $s($y, *$x):\n    $u = $y.$v\n",
    ),
    held_out=(
        "def $s($x, $y=None):\n    $u = $x or $y\n",
        "def $s_$t($x, $y):\n    $u = $x.$v($y)\n",
        "def $s($x, $u):\n    $y = $u * $8\n",
        "def $s($x):\n    $y = $x.$u\n    $v = $y\n",
        "def $s($x, **$y):\n    $x.$u = $8\n",
    ),
)

MODULE_OPENINGS = Splits(
    train=(
        "import $s\nfrom $t import $u\n$v = $8\n",
        "from $s import $t, $u\nimport $v\n",
        "$s = $8\n$t = $u.$v\n\n",
    ),
    validation=(
        "from $s import $t\nfrom $u import $v\n",
        "import $s\nimport $t\n$u = $t($8)\n",
        "$s = $t\n$u = $v + $8\n\n",
    ),
    held_out=(
        "import $s, $t\nfrom $u import $v\n",
        "from $s import $t\n$u = $8\nimport $v\n",
        "$s = $8\n$t = $9\n$u = $s + $t\n",
        "import $s\n$t = $s.$u($8)\n",
    ),
)
