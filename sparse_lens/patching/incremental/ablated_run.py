"""What writers carry when they are ablated, and what readers see when every edge is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import ComponentGraph


@dataclass(frozen=True, eq=False)
class AblatedRun:
    """The empty circuit, from which all others are made by adding what their edges change."""

    values: Float[Tensor, "writers batch pos d_model"] | None
    """Of all writers; None for zeros."""

    streams: Mapping[int, Float[Tensor, "batch pos d_model"]]
    """Readers that come after so many writers see this stream when all their edges are cut."""

    @classmethod
    def of(
        cls,
        graph: ComponentGraph,
        values: Float[Tensor, "writers batch pos d_model"] | None,
        biases: Sequence[Float[Tensor, " d_model"]],
        zeros: Float[Tensor, "batch pos d_model"],
    ) -> AblatedRun:
        """Of given values.

        Args:
            biases: what attention adds in each layer beside its heads' outputs.
            zeros: a stream without anything in it.
        """

        def total(writers: slice) -> Tensor | float:
            return 0.0 if values is None else values[writers].sum(0)

        stream = zeros + total(slice(0, graph.n_inputs))
        streams = {graph.n_inputs: stream}
        for sublayer in graph.sublayers:
            stream = stream + total(sublayer.writers)
            if sublayer.kind == "heads":
                stream = stream + biases[sublayer.layer]
            streams[sublayer.writers.stop] = stream
        return cls(values, streams)

    def of_writers(self, writers: slice) -> Tensor | float:
        """What some writers carry, `[writers, batch, pos, d_model]`."""
        return 0.0 if self.values is None else self.values[writers]

    def after(self, n: int) -> AblatedRun:
        """Without the first n positions."""
        values = None if self.values is None else self.values[:, :, n:]
        return AblatedRun(values, {key: stream[:, n:] for key, stream in self.streams.items()})
