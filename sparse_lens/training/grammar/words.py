"""The identifiers of the grammar: a pool of words, and names made up from syllables."""

import builtins
import random
from keyword import iskeyword

# Words of the tasks that models are tested on: the grammar must not contain them.
_RESERVED = """
name value data path key line result index item node size text file code args type mode level
count start end prefix buffer state config message match event target source user width height
color label title left right first second
harbor lantern falcon velvet copper marble willow saddle barrel candle ribbon anchor meadow
canyon beacon goblet hammer ladder mirror needle oyster parrot pillow rabbit rocket sandal
shovel spider temple tunnel turtle violin walnut wagon zebra basket bucket cactus dragon wizard
"""
RESERVED_IDENTIFIERS = frozenset(_RESERVED.split())

_POOL = """
total options option field fields number numbers string strings length offset parent child
children root token tokens module base obj func method handler callback parser reader writer
stream version pattern request response server client socket address port host timeout loop task
tasks queue lock process thread worker job group members member cache table row rows column
columns cell limit step steps depth weight score scores rate factor ratio delta point points edge
graph tree leaf leaves branch visited seen found parts part chunk chunks block blocks page pages
record records entry header headers body section sections word words letter letters char chars
suffix digits flag flags status error errors warning reason answer query params param env context
session manager engine driver device signal mapper rule rules action actions command commands
output log logger report summary stats metric metrics average minimum maximum lower upper low high
top front back current last begin stop inner outer old new original copy clone temp extra rest
other backup default fallback template layout style theme font image pixel window frame button
menu panel dialog screen shape circle square angle speed force mass price cost amount balance
account order orders product products owner author book books chapter comment story city country
region street zone area route trip train plane ship truck doctor teacher student pupil school
course lesson grade exam apple orange lemon cherry berry melon grape plum bread butter milk water
tea sugar salt pepper river lake mountain forest garden flower stone metal silver golden paper
wood glass cotton tiger lion eagle snake horse sheep goat dog cat bird fish shark whale winter
spring summer autumn morning night day month year hour minute moment season clock timer alarm
ready active enabled visible closed hidden valid locked done alive empty full dirty fresh stale
public remote local shared secret password email phone domain link links titles events targets
sources users colors labels messages matches states levels counts buffers modes starts ends widths
heights pathway counter starter pos arg msg num ptr tmp res req resp conf row_id ok fn cb ctx tag
tags kind unit units rank scale shift mask span slot pair pairs bag box pin pen cup hat run net
hub pad tab diff alpha beta gamma sigma kappa omega echo foxtrot hotel juliet kilo mike oscar papa
romeo sierra tango victor zulu
"""
GRAMMAR_IDENTIFIERS = tuple(_POOL.split())

_ONSETS = ("b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z")
_CLUSTERS = ("br", "cl", "cr", "dr", "fl", "gr", "pl", "pr", "qu", "sh", "sk", "st", "tr", "th")
_BEGINNINGS = _ONSETS + _CLUSTERS
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "ou")
_CODAS = ("", "", "", "", "n", "r", "s", "t", "l", "m", "x", "nd", "ck", "rt")


def _syllables(rng: random.Random) -> str:
    n_syllables = rng.choice((1, 1, 2, 2, 2))
    parts = [rng.choice(_BEGINNINGS) + rng.choice(_VOWELS) for _ in range(n_syllables)]
    return "".join(parts) + rng.choice(_CODAS)


def _word(rng: random.Random) -> str:
    while True:
        word = rng.choice(GRAMMAR_IDENTIFIERS) if rng.random() < 0.72 else _syllables(rng)
        is_reserved = word in RESERVED_IDENTIFIERS or iskeyword(word) or hasattr(builtins, word)
        if not is_reserved:
            return word


def make_identifier(rng: random.Random) -> str:
    """One random identifier: a word, now and then two joined, prefixed or numbered."""
    draw = rng.random()
    if draw < 0.88:
        return _word(rng)
    if draw < 0.95:
        return f"{_word(rng)}_{_word(rng)}"
    if draw < 0.97:
        return f"_{_word(rng)}"
    return f"{_word(rng)}{rng.randint(1, 9)}"


def make_word(rng: random.Random) -> str:
    """A word for the inside of a string."""
    word = _word(rng)
    return word.capitalize() if rng.random() < 0.15 else word
