"""Modules without hooks, to be run on other values than those of the model's own forward pass."""

import copy
from collections import OrderedDict
from typing import Any

from torch import nn
from transformer_lens.hook_points import HookPoint

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NO_HOOK_POINT = nn.Identity()


def without_hooks(module: nn.Module) -> Any:
    """A copy of a module, and of all modules in it, that shares the parameters and has no hooks."""
    twin = copy.copy(module)
    own: dict[str, Any] = {name: OrderedDict() for name in _HOOKS}
    own["_parameters"], own["_buffers"] = dict(module._parameters), dict(module._buffers)
    own["_modules"] = {
        name: _NO_HOOK_POINT if isinstance(child, HookPoint) else child and without_hooks(child)
        for name, child in module._modules.items()
    }
    twin.__dict__.update(own)  # an assignment would look for parameters among them
    return twin
