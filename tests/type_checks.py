"""jaxtyping's checks of types and shapes at every call, at a fraction of the time.

Its own decorator binds the arguments and looks at them twice at each call, and compiles two new
functions for every function that it meets, also for those defined anew in each forward pass. The
checks here are the same, made by beartype in one of two ways:

- a function is compiled once, and opens a scope for names of axes where it has tensors;
- a function inside a function is not compiled: its hints are read once, and its arguments held
  against them one by one. So are those of generators, as their bodies run later.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
from beartype import beartype
from beartype.door import die_if_unbearable

jaxtyped = jaxtyping.jaxtyped
"""Theirs."""


def install(package: str) -> None:
    """Check every function and every dataclass of a package that is yet to be imported."""
    # What the import hook writes above each of them, and looks up there.
    jaxtyping.jaxtyped = checked  # type: ignore[assignment]
    jaxtyping.install_import_hook(package, "beartype.beartype")


def checked(target: Any = None, *, typechecker: Any = None) -> Any:
    """A function or a dataclass whose arguments and results are checked."""
    if target is None:
        return checked
    if isinstance(target, type):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = checked(target.__init__)
        return target
    if "<locals>" in target.__qualname__ or inspect.isgeneratorfunction(target):
        return _held_against_hints(target)
    # Beartype fails in the call on a hint that cannot be read; jaxtyping does without it.
    target.__annotations__ = _hints(target)
    function = beartype(target)
    if not any(map(_has_shape, target.__annotations__.values())):
        return function

    return _scoped(target, function)


def _scoped(target: Callable[..., Any], check: Callable[..., Any]) -> Callable[..., Any]:
    """The check of a function in a scope for names of axes; the bare one while checks are off."""

    @functools.wraps(target)
    def scoped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return target(*args, **kwargs)
        with jaxtyped("context"):
            return check(*args, **kwargs)

    return scoped


def _held_against_hints(target: types.FunctionType) -> Callable[..., Any]:
    signature, hints = _read(target)

    def held(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        for name, value in _each(signature.bind(*args, **kwargs)):
            if name in hints:
                die_if_unbearable(value, hints[name], exception_prefix=f"{name} of {target}: ")
        found = target(*args, **kwargs)
        if "return" in hints:
            die_if_unbearable(found, hints["return"], exception_prefix=f"From {target}: ")
        return found

    return _scoped(target, held)


_of_code: dict[types.CodeType, tuple[inspect.Signature, dict[str, Any]]] = {}


def _read(target: types.FunctionType) -> tuple[inspect.Signature, dict[str, Any]]:
    """The same of all functions that one definition makes."""
    if target.__code__ not in _of_code:
        _of_code[target.__code__] = inspect.signature(target), _hints(target)
    return _of_code[target.__code__]


def _each(bound: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((name, one) for one in value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            yield from ((name, one) for one in value.values())
        else:
            yield name, value


def _hints(target: types.FunctionType) -> dict[str, Any]:
    """Those that can be read where the function is defined, as jaxtyping does it."""
    hints = {}
    for name, hint in target.__annotations__.items():
        one = types.SimpleNamespace(__annotations__={name: hint})
        try:
            hints |= typing.get_type_hints(one, target.__globals__, include_extras=True)
        except (NameError, AttributeError):
            continue  # such as the class that a method is being defined in
    return hints


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    parts = hint if isinstance(hint, list) else typing.get_args(hint)
    return any(map(_has_shape, parts))
