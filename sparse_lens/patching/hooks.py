"""Hooks on a model's hook points, and their removal.

They are PyTorch's own hooks on TransformerLens's hook points. TransformerLens's `reset_hooks` does
not remove them (the model would silently stop being the circuit), and removing them does not touch
hooks that others have added.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformer_lens import HookedTransformer

Edit = Callable[[Tensor], Tensor | None]
"""Takes the value at a hook point and returns what replaces it, or None to leave it."""

OnStart = Callable[[int], None]
"""Called at the start of each forward pass with the number of positions in the key-value cache."""

_FLAGS = {
    "use_hook_mlp_in": "set_use_hook_mlp_in",
    "use_attn_in": "set_use_attn_in",
    "ungroup_grouped_query_attention": "set_ungroup_grouped_query_attention",
}


class Attachment:
    """Edits and captures on a model's hook points, to be installed and removed together.

    Edits replace the value at a hook point and run before all other hooks, so that a cache taken by
    others holds what the circuit computes. Captures only read the value and run after all other
    hooks, so that they see their changes. Since hooks can be added later, captures are registered
    anew, as the last ones, at the start of each forward pass.
    """

    def __init__(
        self,
        model: HookedTransformer,
        *,
        edits: Mapping[str, Edit],
        captures: Mapping[str, Edit],
        flags: Mapping[str, bool] | None = None,
        on_start: OnStart | None = None,
    ) -> None:
        self._model = model
        self._edits = {hook_point(model, name): edit for name, edit in edits.items()}
        self._captures = {hook_point(model, name): capture for name, capture in captures.items()}
        self._flags = dict(flags or {})
        self._on_start = on_start
        self._flags_before: dict[str, bool] = {}
        self._handles: list[Any] = []
        self._capture_handles: dict[nn.Module, Any] = {}

    def install(self) -> None:
        """Register all hooks and set the flags."""
        try:
            for flag, value in self._flags.items():
                self._flags_before[flag] = getattr(self._model.cfg, flag)
                getattr(self._model, _FLAGS[flag])(value)
            for point, edit in self._edits.items():
                self._handles.append(point.register_forward_hook(_replacing(edit), prepend=True))
            if self._captures or self._on_start is not None:
                # `run_with_hooks` and `generate` call `model.forward`, which skips hooks on the
                # model itself; the embedding's and the first block's run in any case.
                embed, block = self._model.embed, self._model.blocks[0]
                self._handles.append(embed.register_forward_pre_hook(self._renew_captures))
                self._handles.append(
                    block.register_forward_pre_hook(self._start, prepend=True, with_kwargs=True)
                )
            self._renew_captures()
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove all hooks and restore the flags."""
        for handle in (*self._handles, *self._capture_handles.values()):
            handle.remove()
        self._handles, self._capture_handles = [], {}
        for flag, value in self._flags_before.items():
            getattr(self._model, _FLAGS[flag])(value)
        self._flags_before = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Installed inside the context, removed after it."""
        self.install()
        try:
            yield
        finally:
            self.remove()

    def _start(self, block: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Runs before the first layer of each forward pass."""
        self._renew_captures()
        cache = kwargs.get("past_kv_cache_entry")
        if cache is not None and self._flags.get("ungroup_grouped_query_attention"):
            raise ValueError(
                "a key-value cache holds the keys of grouped heads, and this circuit gives each "
                "head keys of its own: pass use_past_kv_cache=False."
            )
        if self._on_start is not None:
            self._on_start(0 if cache is None else cache.past_keys.shape[1])

    def _renew_captures(self, *_: Any) -> None:
        """Register the captures that are not the last hooks of their hook points anew."""
        for point, capture in self._captures.items():
            handle = self._capture_handles.get(point)
            last_hook_id = next(reversed(point._forward_hooks), None)
            if handle is not None and last_hook_id == handle.id:
                continue
            if handle is not None:
                handle.remove()
            self._capture_handles[point] = point.register_forward_hook(_watching(capture))


def hook_point(model: HookedTransformer, name: str) -> nn.Module:
    """A model's hook point.

    Raises:
        ValueError: when the model has none of that name.
    """
    point = model.hook_dict.get(name)
    if point is None:
        raise ValueError(f"the model has no hook point {name!r}; was the graph built from it?")
    return point


class Hooks(dict[str, list[Edit]]):
    """Edits or captures by hook point, which run in the order in which they were added."""

    def add(self, name: str, edit: Edit) -> None:
        """Add one at a hook point."""
        self.setdefault(name, []).append(edit)

    def update_with(self, edits: Mapping[str, Edit]) -> None:
        """Add one at each of several hook points."""
        for name, edit in edits.items():
            self.add(name, edit)

    def merged(self) -> dict[str, Edit]:
        """One edit per hook point."""
        return {name: in_turn(edits) for name, edits in self.items()}


def in_turn(edits: Sequence[Edit]) -> Edit:
    """Several edits as one; each takes the result of the one before."""
    if len(edits) == 1:
        return edits[0]

    def edit_in_turn(value: Tensor) -> Tensor:
        for edit in edits:
            edited = edit(value)
            value = value if edited is None else edited
        return value

    return edit_in_turn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Parameters do not require gradients inside the context; only masks and activations do."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


@contextmanager
def counted(model: HookedTransformer, count: Callable[[], None]) -> Iterator[None]:
    """Inside the context `count` is called once per forward pass."""
    handle = model.blocks[0].register_forward_pre_hook(lambda *_: count())
    try:
        yield
    finally:
        handle.remove()


def _replacing(edit: Edit) -> Callable[..., Tensor | None]:
    return lambda module, args, output: edit(output)


def _watching(capture: Edit) -> Callable[..., None]:
    def watch(module: nn.Module, args: Any, output: Tensor) -> None:
        capture(output)

    return watch
