"""A task on docstrings: the parameter that is described next is the next of the definition."""

import random

from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.prompt_spec import PromptSpec
from sparse_lens.evals.tasks.splits import Splits

# Most of them are one token even in a vocabulary of 1,024 for code.
ARGUMENTS = (
    *("file", "name", "line", "value", "key", "path", "type", "text", "data", "result", "node"),
    *("module", "option", "string", "token", "field", "count", "context", "base", "error", "row"),
    *("tag", "size", "model", "index", "user"),
)
_FUNCTIONS = ("send", "update", "check", "build", "create", "find", "move", "open", "start", "test")
_WORDS = (
    *("water", "stone", "paper", "music", "river", "sound", "light", "table", "story", "glass"),
    *("horse", "island", "storm", "bread", "money", "forest", "window", "winter"),
)


def _docstring(rng: random.Random, template: str) -> tuple[Contrast, ...]:
    """As many parameters are described as the template has of `{one}` and `{two}`."""
    names, others = rng.sample(ARGUMENTS, 6), slice(3, 6)
    words = dict(zip(("v", "w", "x", "y", "z"), rng.sample(_WORDS, 5), strict=True))
    function = rng.choice(_FUNCTIONS)

    def text(parameters: list[str]) -> str:
        return template.format(
            function=function,
            parameters=", ".join(parameters),
            one=names[0],
            two=names[1],
            **words,
        )

    following = names[("{one}" in template) + ("{two}" in template)]
    return (
        Contrast(
            clean=text(names[:3]),
            corrupted=text(names[others]),
            answers=(f" {following}",),
            distractors=tuple(f" {name}" for name in names[:3] if name != following),
            whole=tuple(f" {name}" for name in names[:3]),
        ),
    )


DOCSTRING = PromptSpec(
    name="docstring",
    question="Which of the three parameters is described next?",
    statements=Splits(
        train=(
            'def {function}(self, {parameters}):\n    """{v} {w} {x}.\n\n'
            "    :param {one}: {y} {z}\n    :param {two}: {w} {v}\n    :param",
            'def {function}(self, {parameters}):\n    """{v} the {w}.\n\n'
            "    :param {one}: {x} {y}\n    :param",
            'def {function}(cls, {parameters}):\n    """{v} and {w}.\n\n'
            "    @param {one}: the {x}\n    @param {two}: the {y}\n    @param",
        ),
        validation=(
            'def {function}(self, {parameters}):\n    """{v} {w}, {x}.\n\n'
            "    @param {one}: {y} {z}\n    @param",
            'def {function}(cls, {parameters}):\n    """{v} of {w}.\n\n'
            "    :param {one}: {x} {y}\n    :param {two}: {z} {w}\n    :param",
            'def {function}(self, {parameters}, **{v}):\n    """{w} {x}.\n\n'
            "    :param {one}: the {y}\n    :param {two}: the {z}\n    :param",
        ),
        held_out=(
            'def {function}(self, {parameters}):\n    """{v} by {w}.\n\n'
            "    @param {one}: {x} {y}\n    @param {two}: {z} {v}\n    @param",
            'def {function}(self, {parameters}, {v}=None):\n    """{w} {x}.\n\n'
            "    :param {one}: {y} {z}\n    :param {two}: {x} {w}\n    :param",
            'def {function}(cls, {parameters}):\n    """{v}, {w}.\n\n'
            "    :param {one}: {x} of {y}\n    :param",
            'class {v}:\n    def {function}(self, {parameters}):\n        """{w} {x}.\n\n'
            "        :param {one}: {y}\n        :param {two}: {z}\n        :param",
        ),
    ),
    fill=_docstring,
    deciding_tokens=3,
)
