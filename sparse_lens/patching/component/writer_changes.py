"""What ablating a writer changes in what it writes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.alignment import aligned, differences
from sparse_lens.patching.component.forward_state import WriterValues
from sparse_lens.patching.component.writers import WriterOutputs
from sparse_lens.patching.hooks import Attachment, Hooks


class WriterChanges:
    """ablated - live of all writers, of a run of the whole model."""

    def __init__(
        self, model: HookedTransformer, graph: ComponentGraph, ablated: WriterValues | None
    ) -> None:
        self._model, self._graph, self._ablated = model, graph, ablated
        self._stored: list[Tensor] = []

    @property
    def known(self) -> bool:
        """Whether that run was made."""
        return bool(self._stored)

    def __getitem__(self, where: Any) -> Float[Tensor, "*writers tokens d_model"]:
        return self._stored[0][where]

    def add(self, edits: Hooks, captures: Hooks) -> None:
        """Add the hooks that note them."""
        WriterOutputs(self._model, self._graph).hand_over(self._receive, edits, captures)

    def attachment(self) -> Attachment:
        """These hooks alone."""
        edits, captures = Hooks(), Hooks()
        self.add(edits, captures)
        return Attachment(self._model, edits=edits.merged(), captures=captures.merged())

    @torch.no_grad()
    def _receive(self, live: Float[Tensor, "writers batch pos d_model"], where: slice) -> None:
        batch, pos, width = live.shape[1:]
        if not self._stored:
            self._stored.append(live.new_empty(self._graph.n_writers, batch * pos, width))
        part = None
        if self._ablated is not None:
            part = aligned(self._ablated[where], "writers", leading=1, batch=batch, pos=pos)
        differences(part, live, out=self._stored[0][where].view(live.shape))
