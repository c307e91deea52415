"""Nested patches: the innermost circuit is what runs, the outer ones wait."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformer_lens import HookedTransformer

from sparse_lens.patching.hooks import Attachment

_STACK = "_sparse_lens_attachments"


@contextmanager
def suspended(model: HookedTransformer) -> Iterator[None]:
    """The model without the patch that is active on it, if any."""
    stack = model.__dict__.get(_STACK)
    if not stack:
        yield
        return
    outer: Attachment = stack[-1]
    outer.remove()
    stack.append(Attachment(model, edits={}, captures={}))
    try:
        yield
    finally:
        stack.pop()
        outer.install()


def has_hooks_of_others(model: HookedTransformer) -> bool:
    """Whether hooks that are not of a patch act on the model, such as permanent ones."""
    with suspended(model):
        return any(
            point._forward_hooks or point._forward_pre_hooks for point in model.hook_dict.values()
        )


@contextmanager
def active(model: HookedTransformer, attachment: Attachment) -> Iterator[None]:
    """The model with a patch, in place of the one that is active on it."""
    with suspended(model):
        stack: list[Attachment] = model.__dict__.setdefault(_STACK, [])
        stack.append(attachment)
        try:
            with attachment.attached():
                yield
        finally:
            stack.pop()
            if not stack:
                del model.__dict__[_STACK]
