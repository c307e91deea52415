"""A task on docstrings: parameters are described in the order of the definition."""

import random

from sparse_lens.evals.tasks.contrast import Contrast
from sparse_lens.evals.tasks.prompt_spec import PromptSpec
from sparse_lens.evals.tasks.splits import Splits

# Most of these are single tokens even in a vocabulary of 1,024 for code.
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
    """Two definitions with different parameters, and the same descriptions.

    `{one}` and `{two}` are the parameters that the template describes before the answer.
    """
    names = rng.sample(ARGUMENTS, 6)
    clean_names, corrupted_names = names[:3], names[3:]
    words = dict(zip(("v", "w", "x", "y", "z"), rng.sample(_WORDS, 5), strict=True))
    function = rng.choice(_FUNCTIONS)

    def text(parameters: list[str]) -> str:
        return template.format(
            function=function,
            parameters=", ".join(parameters),
            one=clean_names[0],
            two=clean_names[1],
            **words,
        )

    n_described = ("{one}" in template) + ("{two}" in template)
    answer = clean_names[n_described]
    return (
        Contrast(
            clean=text(clean_names),
            corrupted=text(corrupted_names),
            answers=(f" {answer}",),
            distractors=tuple(f" {name}" for name in clean_names if name != answer),
            whole=tuple(f" {name}" for name in clean_names),
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
