"""What the hooks of one forward pass of a component graph's circuit share."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_lens.patching.alignment import aligned, like
from sparse_lens.patching.component.cuts import Cuts
from sparse_lens.patching.component.mixing import Store

WriterValues = Float[Tensor, "writers *batch_pos d_model"]
"""Ablated values of all writers: `[writers, d_model]`, `[writers, pos, d_model]` or
`[writers, batch, pos, d_model]`."""


class ForwardState:
    """Holds what was written so far; made new at the start of each forward pass.

    It holds none of the hooks that hold it, so that its memory goes when they go.
    """

    def __init__(self, cuts: Cuts, ablated: WriterValues | None) -> None:
        self.cuts = cuts
        self._ablated = ablated
        self._stored = torch.tensor(cuts.stored).nonzero().flatten()
        self._offset = 0
        self._store: Store | None = None

    def start(self, offset: int) -> None:
        """A forward pass begins, after this many cached positions."""
        self._offset, self._store = offset, None

    def finish(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        """All has been written and read."""
        self._store = None

    def ablated(
        self, writers: Int[Tensor, " writers"], live: Float[Tensor, "*_ batch pos d_model"]
    ) -> Tensor | None:
        """Ablated values of some writers, broadcasting to [writers, batch, pos, d_model]."""
        if self._ablated is None:
            return None
        first, count = int(writers[0]), len(writers)
        if int(writers[-1]) - first + 1 == count:  # neighbours: a view
            values = self._ablated[first : first + count]
        else:
            values = self._ablated.index_select(0, writers.to(self._ablated.device))
        batch, pos = live.shape[-3:-1]
        aligned_values = aligned(
            values, "writers", leading=1, batch=batch, pos=pos, offset=self._offset
        )
        return like(aligned_values, live)

    def write(self, live: Float[Tensor, "writers batch pos d_model"], indices: slice) -> None:
        """Note the outputs of the next writers.

        Args:
            indices: theirs among the stored writers.
        """
        if indices.start == 0:
            self._store = Store(len(self._stored), live[0])
        store = self.store
        if store.written != indices.start:
            raise self._not_from_the_start()
        store.write(live, self.ablated(self._stored[indices], live), indices)

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
