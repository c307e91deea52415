"""What one forward pass of a component graph's circuit leaves for its hooks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_lens.patching.alignment import aligned, like
from sparse_lens.patching.component.mixing import Store
from sparse_lens.patching.component.plan import Plan

WriterValues = Float[Tensor, "writers *batch_pos d_model"]
"""Ablated values of all writers: `[writers, d_model]`, `[writers, pos, d_model]` or
`[writers, batch, pos, d_model]`."""


class Run:
    """State of one forward pass after the other.

    It holds none of the hooks that hold it, so that its memory goes when they go.
    """

    def __init__(self, plan: Plan, ablated: WriterValues | None) -> None:
        self.plan = plan
        self._ablated = ablated
        self._stored = torch.tensor(plan.stored).nonzero().flatten()
        self._offset = 0
        self._store: Store | None = None

    def start(self, offset: int) -> None:
        """A forward pass begins, after this many cached positions."""
        self._offset, self._store = offset, None

    def finish(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        """All has been written and read."""
        self._store = None

    def ablated(
        self, writers: Int[Tensor, " some"], live: Float[Tensor, "*_ batch pos d_model"]
    ) -> Tensor | None:
        """Ablated values of some writers, broadcasting to [some, batch, pos, d_model]."""
        if self._ablated is None:
            return None
        first, count = int(writers[0]), len(writers)
        if int(writers[-1]) - first + 1 == count:
            chosen = self._ablated[first : first + count]
        else:
            chosen = self._ablated.index_select(0, writers.to(self._ablated.device))
        batch, pos = live.shape[-3:-1]
        return like(
            aligned(chosen, "writers", leading=1, batch=batch, pos=pos, offset=self._offset), live
        )

    def write(self, live: Float[Tensor, "writers batch pos d_model"], where: slice) -> None:
        """Note the outputs of the next stored writers."""
        if where.start == 0:
            self._store = Store(len(self._stored), live[0])
        store = self.store
        if store.written != where.start:
            raise self._not_from_the_start()
        store.write(live, self.ablated(self._stored[where], live), where)

    @property
    def store(self) -> Store:
        """What was written so far in this forward pass."""
        if self._store is None:
            raise self._not_from_the_start()
        return self._store

    def _not_from_the_start(self) -> ValueError:
        return ValueError(
            "a circuit of a component graph runs from the embedding on, since its readers need "
            "what every writer wrote: start_at_layer must be 0 or None."
        )
