"""Tasks on people's names in English: who receives something, and which pronoun follows."""

import random

from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.prompt_spec import PromptSpec
from sparse_lens.evals.tasks.splits import Splits
from sparse_lens.evals.tasks.template import Pair

# Common first names. Most are single tokens in large vocabularies; others are rejected.
WOMEN = (
    *("Mary", "Anna", "Sarah", "Emma", "Laura", "Alice", "Julia", "Rachel", "Susan", "Karen"),
    *("Lisa", "Linda", "Helen", "Amy", "Kate", "Jane", "Emily", "Maria", "Diana", "Rebecca"),
    *("Nancy", "Claire", "Ruth", "Martha", "Carol", "Jennifer", "Jessica", "Amanda"),
)
MEN = (
    *("John", "Tom", "James", "Paul", "Mark", "Peter", "David", "Michael", "Robert", "Andrew"),
    *("Daniel", "Kevin", "Brian", "Steven", "George", "Henry", "Simon", "Adam", "Eric", "Frank"),
    *("Jack", "Martin", "Richard", "Thomas", "William", "Charles", "Scott", "Joseph"),
)

_PLACES = ("garden", "market", "station", "library", "kitchen", "harbour", "museum", "school")
_OBJECTS = ("book", "letter", "drink", "camera", "ticket", "ring", "key", "flower", "present")


def _indirect_object(rng: random.Random, template: str) -> tuple[Contrast, ...]:
    """Two prompts on the same names, which give the roles of giver and receiver in turn.

    The corrupted prompt has three other names, so that none of them is named twice.
    """
    name_a, name_b, *other_names = rng.sample(WOMEN + MEN, 5)
    scene = {"place": rng.choice(_PLACES), "object": rng.choice(_OBJECTS)}

    def text(first: str, second: str, giver: str) -> str:
        return template.format(first=first, second=second, giver=giver, **scene)

    return tuple(
        Contrast(
            clean=text(name_a, name_b, giver),
            corrupted=text(*other_names),
            answers=(f" {receiver}",),
            distractors=(f" {giver}",),
            whole=(f" {name_a}", f" {name_b}"),
        )
        # The patterns ABBA and BABA.
        for giver, receiver in ((name_b, name_a), (name_a, name_b))
    )


# Names always come after a space: at the start of a text they would be different tokens.
INDIRECT_OBJECT = PromptSpec(
    name="indirect_object",
    question="Who is given something: which of the two is named only once so far?",
    statements=Splits(
        train=(
            "When {first} and {second} met at the {place}, {giver} handed a {object} to",
            "Yesterday {first} and {second} walked to the {place}, and {giver} offered a "
            "{object} to",
            "After {first} and {second} had left the {place}, {giver} sold a {object} to",
            "Last year {first} and {second} worked at the {place}. There {giver} showed a "
            "{object} to",
        ),
        validation=(
            "While {first} and {second} were waiting at the {place}, {giver} passed a {object} to",
            "Because {first} and {second} were early at the {place}, {giver} brought a {object} to",
            "Later {first} and {second} talked in the {place}, where {giver} lent a {object} to",
        ),
        held_out=(
            "Once {first} and {second} had arrived at the {place}, {giver} gave a {object} to",
            "In the morning {first} and {second} drove to the {place}. Then {giver} sent a "
            "{object} to",
            "Before {first} and {second} closed the {place}, {giver} returned a {object} to",
            "Long ago {first} and {second} lived near the {place}, and {giver} threw a {object} to",
        ),
    ),
    fill=_indirect_object,
    rows_per_draw=2,
    deciding_tokens=3,
)

_QUALITIES = ("great", "good", "kind", "funny", "clever", "patient", "careful", "famous")
_ROLES = ("friend", "teacher", "doctor", "writer", "singer", "student", "driver", "cook")


def _gendered_pronoun(rng: random.Random, template: str) -> tuple[Contrast, ...]:
    scene = {"quality": rng.choice(_QUALITIES), "role": rng.choice(_ROLES)}
    clean, corrupted = (template.format(name=rng.choice(names), **scene) for names in (WOMEN, MEN))
    return Pair(clean, corrupted, " she", " he").rows


GENDERED_PRONOUN = PromptSpec(
    name="gendered_pronoun",
    question="Is the person of this name referred to as she, or as he?",
    statements=Splits(
        train=(
            "So {name} is a really {quality} {role}, isn't",
            "I heard that {name} was a {quality} {role} once, wasn't",
            "Surely {name} has always been a {quality} {role}, hasn't",
            "Well, {name} does want to be a {quality} {role}, doesn't",
        ),
        validation=(
            "Of course {name} will be a {quality} {role} soon, won't",
            "You know that {name} could be a {quality} {role}, couldn't",
            "Clearly {name} has met a {quality} {role} today, hasn't",
        ),
        held_out=(
            "Now {name} is looking for a {quality} {role}, isn't",
            "They said that {name} would become a {quality} {role}, wouldn't",
            "At school {name} was the most {quality} {role}, wasn't",
            "As a {role} {name} should be more {quality}, shouldn't",
        ),
    ),
    fill=_gendered_pronoun,
    shared_candidates=(" she", " he"),
    rows_per_draw=2,
)
