"""`run_with_cache` and hooks on a weight-sparse GPT: right caches, and no hook that never fires."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.slice import Slice

from sparse_lens.models.activation_cache import SparseActivationCache

_SWITCHES = {
    "attn.hook_result": "use_attn_result",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Hook points that never fire in stock code until a flag is set, with that flag."""


class CachingHookedTransformer(HookedTransformer):
    """A HookedTransformer whose caches refuse decompositions that would be wrong."""

    def run_with_cache(  # type: ignore[override]
        self, *model_args: Any, return_cache_object: bool = True, **kwargs: Any
    ) -> tuple[Any, Any]:
        """As `HookedTransformer.run_with_cache`.

        The cache refuses decompositions that AbsTopK makes wrong.
        """
        has_batch_dim = not kwargs.get("remove_batch_dim", False)
        output, cache = super().run_with_cache(*model_args, return_cache_object=False, **kwargs)
        if return_cache_object:
            cache = SparseActivationCache(cache, self, has_batch_dim=has_batch_dim)
        return output, cache

    def get_caching_hooks(self, *args: Any, pos_slice: Any = None, **kwargs: Any) -> Any:
        """As the stock method, with `pos_slice` applied to positions at every hook point.

        The stock one infers the axis from the hook point's name, and would slice heads at the hook
        points that are added here.
        """
        cache, forward, backward = super().get_caching_hooks(*args, **kwargs)
        positions = Slice.unwrap(pos_slice)
        forward, backward = (
            [
                (name, _sliced(hook, name, positions))
                for name, hook in hooks
                if not self._switch(name)
            ]
            for hooks in (forward, backward)
        )
        return cache, forward, backward

    def _enable_hook_with_name(self, name: str, hook: Callable, dir: Literal["fwd", "bwd"]) -> None:
        """Called by `hooks` and `run_with_hooks`, which like `add_hook` refuse silent points."""
        switch = self._switch(name)
        if switch is not None:
            raise ValueError(f"{name} is silent; call model.set_{switch}(True) first.")
        super()._enable_hook_with_name(name, hook, dir)

    def _switch(self, name: str) -> str | None:
        """The flag without which a hook point does not fire, if it is not set."""
        flags = (flag for suffix, flag in _SWITCHES.items() if name.endswith(suffix))
        return next((flag for flag in flags if not getattr(self.cfg, flag)), None)


def _sliced(save: Callable[..., None], name: str, positions: Slice) -> Callable[..., None]:
    """A caching hook that saves a slice of the positions."""
    if positions.mode == "identity":
        return save
    axis = 2 if name.endswith(("hook_attn_scores", "hook_pattern")) else 1

    def hook(tensor: Tensor, hook: HookPoint) -> None:
        save(positions.apply(tensor, dim=axis), hook=hook)

    return hook
