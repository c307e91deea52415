"""The identifiers of the grammar: a pool of words, and names made up from syllables."""

import random

# Kept for the tasks that test the models: none of these may be taught by the grammar.
_RESERVED = """
name value data path key line result index item node size text file code args type mode level
count start end prefix buffer state config message match event target source user width height
color label title left right first second
"""
RESERVED_IDENTIFIERS = frozenset(_RESERVED.split())

_POOL = """
total items values names keys lines paths nodes files options option field fields number numbers
string strings length offset parent child children root token tokens module base obj func method
handler callback parser reader writer stream version pattern request response server client socket
address port host timeout loop task tasks queue lock process thread worker job group members
member cache table row rows column columns cell limit step steps depth weight score scores rate
factor ratio delta point points edge edges graph tree leaf leaves branch visited seen found parts
part chunk chunks block blocks page pages record records entry entries header headers body section
sections word words letter letters char chars suffix digits flag flags status error errors warning
reason answer query params param env context session manager engine driver device signal filter
mapper rule rules action actions command commands output input log logger report summary stats
metric metrics average minimum maximum lower upper low high top bottom front back previous current
following last begin stop inner outer old new original copy clone temp extra rest other backup
default fallback template layout style theme font image pixel canvas window frame button menu
panel dialog cursor screen shape circle square radius angle speed force mass volume price cost
amount balance account order orders product products customer owner author editor book books
chapter article comment story city country region street zone area map route trip journey train
plane ship truck engineer doctor teacher student pupil school class_id course lesson grade exam
test_case apple banana orange lemon cherry berry melon grape plum peach bread butter cheese milk
water coffee tea sugar salt pepper river lake mountain valley forest garden flower stone metal
silver golden paper wood glass cotton tiger lion eagle snake horse sheep goat dog cat bird fish
shark whale winter spring summer autumn morning evening night day month year hour minute moment
season clock timer alarm ready active enabled visible closed hidden valid locked done alive empty
full broken dirty fresh stale public private remote local shared global_id secret password email
phone domain link links image_url host_id
"""
GRAMMAR_IDENTIFIERS = tuple(_POOL.split())

_ONSETS = ("b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z")
_CLUSTERS = ("br", "cl", "cr", "dr", "fl", "gr", "pl", "pr", "qu", "sh", "sk", "st", "tr", "th")
_BEGINNINGS = _ONSETS + _CLUSTERS
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "ou")
_CODAS = ("", "", "", "", "n", "r", "s", "t", "l", "m", "x", "nd", "ck", "rt")
_KEYWORDS = frozenset({"del", "not", "for", "def", "try", "is", "in", "or", "as", "if"})


def _syllables(rng: random.Random) -> str:
    number = rng.choice((1, 2, 2, 2, 3))
    parts = [rng.choice(_BEGINNINGS) + rng.choice(_VOWELS) for _ in range(number)]
    return "".join(parts) + rng.choice(_CODAS)


def _word(rng: random.Random) -> str:
    while True:
        word = rng.choice(GRAMMAR_IDENTIFIERS) if rng.random() < 0.72 else _syllables(rng)
        if len(word) > 1 and word not in RESERVED_IDENTIFIERS and word not in _KEYWORDS:
            return word


def make_identifier(rng: random.Random) -> str:
    """One random identifier: a word, now and then two joined, prefixed or numbered."""
    draw = rng.random()
    if draw < 0.80:
        return _word(rng)
    if draw < 0.93:
        return f"{_word(rng)}_{_word(rng)}"
    if draw < 0.96:
        return f"_{_word(rng)}"
    return f"{_word(rng)}{rng.randint(1, 9)}"


def make_word(rng: random.Random) -> str:
    """A word for the inside of a string."""
    word = _word(rng)
    return word.capitalize() if rng.random() < 0.15 else word
