"""The suite's own checks refuse what jaxtyping's refuse, and nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, Int, TypeCheckError
from torch import Tensor

from sparse_lens.evals.tasks import SplitSizes, constant_answer_accuracy
from sparse_lens.models.abs_topk import abs_topk_mask
from tests import type_checks

TWO, THREE = torch.zeros(2), torch.zeros(3)


def axes(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> None:
    """Axes of one name have one size."""


def result(a: Float[Tensor, " n"], size: int) -> Float[Tensor, " n"]:
    return torch.zeros(size)


def kind(a: Int[Tensor, "*any"] | None = None) -> None:
    """Of integers."""


def inside(a: list[Float[Tensor, " n"]], *, b: Float[Tensor, " n"]) -> None:
    """Also in a list, and by keyword."""


def several(*sizes: int, **names: str) -> None:
    """As many as there are."""


def plain(name: str, numbers: tuple[int, ...] = ()) -> int:
    return len(name) if numbers else name  # type: ignore[return-value]


def outer(a: Float[Tensor, " n"]) -> None:
    """Names of axes hold in one call, not in those that it makes."""
    axes(a[:-1], a[:-1])


def one_by_one(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> Iterator[int]:
    yield from (len(a), len(b))


Call = tuple[tuple[Any, ...], dict[str, Any]]


def call(*args: Any, **kwargs: Any) -> Call:
    return args, kwargs


CALLS: dict[Callable[..., Any], tuple[list[Call], list[Call]]] = {
    axes: ([call(TWO, TWO), call(b=THREE, a=THREE)], [call(TWO, THREE), call(TWO, b=[1.0])]),
    result: ([call(TWO, 2)], [call(TWO, 3), call(TWO, "2")]),
    kind: ([call(), call(a=None), call(TWO.long())], [call(TWO), call(a=2)]),
    inside: ([call([TWO], b=TWO)], [call([TWO], b=THREE), call([[TWO]], b=TWO)]),
    several: ([call(), call(1, 2, a="b")], [call(1, "2"), call(a=1)]),
    plain: ([call("a", (1, 2))], [call("a"), call(1, (1,)), call("a", [1])]),
    outer: ([call(THREE)], [call(3)]),
    one_by_one: ([call(TWO, TWO)], [call(TWO, THREE)]),
}


def theirs(target: Any) -> Any:
    return type_checks.jaxtyped(target, typechecker=beartype)


def refuses(function: Callable[..., Any], given: Call) -> bool:
    try:
        function(*given[0], **given[1])
    except (BeartypeCallHintViolation, TypeCheckError):
        return True
    return False


@pytest.mark.parametrize("place", ["module", "function"])
@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
def test_the_same_is_refused(function, place, monkeypatch):
    if place == "function":
        monkeypatch.setattr(function, "__qualname__", f"around.<locals>.{function.__name__}")
    right, wrong = CALLS[function]
    for check in (theirs, type_checks.checked):
        checked = check(function)
        assert [refuses(checked, each) for each in right] == [False] * len(right)
        assert [refuses(checked, each) for each in wrong] == [True] * len(wrong)


@pytest.mark.parametrize("place", ["module", "function"])
def test_checks_of_shapes_can_be_switched_off(place, monkeypatch):
    if place == "function":
        monkeypatch.setattr(axes, "__qualname__", "around.<locals>.axes")
    for check in (theirs, type_checks.checked):
        checked = check(axes)
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        assert not refuses(checked, call(TWO, THREE))
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", False)
        assert refuses(checked, call(TWO, THREE))


def test_each_function_of_a_definition_does_its_own():
    def made(number: int) -> Callable[[int], int]:
        def add(other: int) -> int:
            return number + other

        return type_checks.checked(add)

    one, ten = made(1), made(10)
    assert (one(1), ten(1)) == (2, 11)
    assert refuses(ten, call("1"))


@pytest.mark.parametrize("check", [type_checks.checked, theirs])
def test_fields_and_methods(check):
    @dataclass(frozen=True)
    class Pair:
        a: Float[Tensor, " n"]
        b: Float[Tensor, " n"]

        @check
        def longer(self, than: int) -> bool:
            return len(self.a) > than

    pair = check(Pair)
    assert pair(TWO, TWO).longer(1)
    assert refuses(pair, call(TWO, THREE))
    assert refuses(pair(TWO, TWO).longer, call("1"))


def unreadable(a: "Unknown[int]", b: int) -> None:  # type: ignore[name-defined] # noqa: F821
    """Hints on a class to come, or on one that only type checkers import."""


@pytest.mark.parametrize("check", [type_checks.checked, theirs])
def test_a_hint_that_cannot_be_read_is_left_out(check):
    function = check(unreadable)
    function("anything", 1)
    assert refuses(function, call("anything", "1"))


def test_the_library_is_checked():
    assert refuses(constant_answer_accuracy, call("prompts"))
    assert refuses(abs_topk_mask, call(TWO.long(), 1))
    assert refuses(SplitSizes, call("2", 2, 2))
