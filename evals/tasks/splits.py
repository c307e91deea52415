"""Identifiers and openings of prompts, separate for each split."""

from dataclasses import dataclass

from sparse_lens.task import SPLITS


@dataclass(frozen=True)
class SplitSizes:
    """Number of prompts in each split of a task; all are even."""

    n_train: int = 128
    n_validation: int = 64
    n_held_out: int = 128


USUAL_SIZES = SplitSizes()
"""The default sizes."""


@dataclass(frozen=True)
class Splits:
    """The strings of each split; no string is in two splits.

    Raises:
        ValueError: when a split is empty, or two splits share a string.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]

    def __post_init__(self) -> None:
        split_of: dict[str, str] = {}
        for split in SPLITS:
            if not self.of(split):
                raise ValueError(f"split {split!r} is empty; give it at least one string.")
            for text in self.of(split):
                if split_of.setdefault(text, split) != split:
                    raise ValueError(
                        f"splits {split_of[text]!r} and {split!r} share {text!r}; what is found on "
                        "one split must be tested on another: make them disjoint."
                    )

    def of(self, split: str) -> tuple[str, ...]:
        """The strings of a split, by its name.

        Raises:
            ValueError: for a name that no split has.
        """
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}.")
        return getattr(self, split)


# Words that are like those of the training grammar, but not among them. A small vocabulary splits
# both into similar tokens, so that a prompt tests its construct and not a rare word.
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

# Openings use the letters `$s` to `$z` and the digits `$8` and `$9`. Statements use the others, and
# `$x` and `$y` for names in the scope of the function. Bodies of functions are indented by four.
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
