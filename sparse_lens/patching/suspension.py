"""Nested patches: only the innermost one is installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformer_lens import HookedTransformer

from sparse_lens.patching.hooks import Attachment

_STACK = "_sparse_lens_attachments"


@contextmanager
def suspended(model: HookedTransformer) -> Iterator[None]:
    """Inside the context the patch that is active on the model, if any, is removed."""
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
    """Whether the model has hooks other than those of a patch, such as permanent ones."""
    with suspended(model):
        return any(
            point._forward_hooks or point._forward_pre_hooks for point in model.hook_dict.values()
        )


@contextmanager
def active(model: HookedTransformer, attachment: Attachment) -> Iterator[None]:
    """Inside the context the model has this patch, instead of the one that was active on it."""
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
