"""Copies of modules without hooks, to call them outside the model's forward pass."""

import copy
from collections import OrderedDict
from typing import Any

from torch import nn
from transformer_lens.hook_points import HookPoint

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NO_HOOK_POINT = nn.Identity()


def without_hooks(module: nn.Module) -> Any:
    """A copy of a module and its submodules that shares the parameters and has no hooks."""
    copied = copy.copy(module)
    state: dict[str, Any] = {name: OrderedDict() for name in _HOOKS}
    state["_parameters"], state["_buffers"] = dict(module._parameters), dict(module._buffers)
    state["_modules"] = {
        name: _NO_HOOK_POINT if isinstance(child, HookPoint) else child and without_hooks(child)
        for name, child in module._modules.items()
    }
    copied.__dict__.update(state)  # past nn.Module.__setattr__, which handles parameters
    return copied
