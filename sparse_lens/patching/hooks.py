"""Attaching to hook points, and leaving the model as it was found.

Hooks here are PyTorch's own on TransformerLens's hook points: `reset_hooks` does not remove them
(the model would silently stop being the circuit), and removing them leaves other people's alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformer_lens import HookedTransformer

Edit = Callable[[Tensor], Tensor | None]
"""Takes the value at a hook point and returns what replaces it, or None to leave it."""

_FLAGS = {
    "use_hook_mlp_in": "set_use_hook_mlp_in",
    "use_attn_in": "set_use_attn_in",
    "ungroup_grouped_query_attention": "set_ungroup_grouped_query_attention",
}


class Attachment:
    """Edits and captures on a model's hook points, to be installed and removed together.

    Edits run before all other hooks, so that a cache taken meanwhile holds what the circuit
    computes. Captures run after all others, so that they see what these made of the value; to stay
    last behind hooks that were added meanwhile they are renewed at the start of each forward pass.
    """

    def __init__(
        self,
        model: HookedTransformer,
        *,
        edits: Mapping[str, Edit],
        captures: Mapping[str, Edit],
        flags: Mapping[str, bool] | None = None,
    ) -> None:
        self._model = model
        self._edits = {hook_point(model, name): edit for name, edit in edits.items()}
        self._captures = {hook_point(model, name): capture for name, capture in captures.items()}
        self._flags = dict(flags or {})
        self._found: dict[str, bool] = {}
        self._handles: list[Any] = []
        self._capture_handles: list[Any] = []

    def install(self) -> None:
        """Attach everything and switch the flags."""
        try:
            for flag, value in self._flags.items():
                self._found[flag] = getattr(self._model.cfg, flag)
                getattr(self._model, _FLAGS[flag])(value)
            for point, edit in self._edits.items():
                self._handles.append(point.register_forward_hook(_replacing(edit), prepend=True))
            if self._captures:
                self._handles.append(self._model.register_forward_pre_hook(self._renew_captures))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Detach everything and restore the flags."""
        for handle in (*self._handles, *self._capture_handles):
            handle.remove()
        self._handles, self._capture_handles = [], []
        for flag, value in self._found.items():
            getattr(self._model, _FLAGS[flag])(value)
        self._found = {}

    def _renew_captures(self, *_: Any) -> None:
        for handle in self._capture_handles:
            handle.remove()
        self._capture_handles = [
            point.register_forward_hook(_watching(capture))
            for point, capture in self._captures.items()
        ]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Installed inside the context, removed after it."""
        self.install()
        try:
            yield
        finally:
            self.remove()


def hook_point(model: HookedTransformer, name: str) -> nn.Module:
    """A model's hook point.

    Raises:
        ValueError: when there is none of that name.
    """
    point = model.hook_dict.get(name)
    if point is None:
        raise ValueError(f"the model has no hook point {name!r}; was the graph built from it?")
    return point


def merged(first: Mapping[str, Edit], second: Mapping[str, Edit]) -> dict[str, Edit]:
    """Both sets of captures; where they want the same value, one after the other."""
    both = dict(first)
    for name, capture in second.items():
        both[name] = in_turn([both[name], capture]) if name in both else capture
    return both


def in_turn(edits: Sequence[Edit]) -> Edit:
    """Several edits of one value, each given what the one before made of it."""

    def edit(value: Tensor) -> Tensor:
        for one in edits:
            changed = one(value)
            value = value if changed is None else changed
        return value

    return edit


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Parameters without gradients inside the context: masks and activations alone need them."""
    found = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in found:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, needed in found:
            parameter.requires_grad_(needed)


def _replacing(edit: Edit) -> Callable[..., Tensor | None]:
    return lambda module, args, output: edit(output)


def _watching(capture: Edit) -> Callable[..., None]:
    def watch(module: nn.Module, args: Any, output: Tensor) -> None:
        capture(output)

    return watch
