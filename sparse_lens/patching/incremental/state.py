"""One circuit as it runs on some prompts: what passes of its variants read, and adopting writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import LETTERS, ComponentGraph
from sparse_lens.graphs.reachability import Acting
from sparse_lens.patching.incremental.frame import Frame
from sparse_lens.patching.incremental.spans import span
from sparse_lens.patching.memory import Scratch


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the writers of a circuit put out, at all positions or at the answer's (without `pos`).

    Not kept up to date for writers whose output nothing needs there.
    """

    live: Float[Tensor, "writers batch *pos d_model"]

    differences: Float[Tensor, "writers batch *pos d_model"]
    """ablated - live"""

    def add(self, writers: list[int], changes: Float[Tensor, "changed batch *pos d_model"]) -> None:
        """Let the outputs of some writers grow by so much."""
        indices = span(writers)
        if isinstance(indices, slice):
            self.live[indices].add_(changes)
            self.differences[indices].sub_(changes)
            return
        for writer, change in zip(writers, changes, strict=True):  # in place: no copies of many
            self.live[writer].add_(change)
            self.differences[writer].sub_(change)


class CircuitState:
    """Edges and outputs of a circuit, and the queries, keys and values of its heads.

    At the start everything is as it is when every edge is cut, except for the inputs.

    Args:
        kept: the circuit's edges, bool [readers, writers].
    """

    def __init__(self, graph: ComponentGraph, frame: Frame, kept: np.ndarray) -> None:
        self.graph, self.frame, self.kept = graph, frame, kept.copy()
        embedded_inputs, (batch, pos, d_model) = frame.embedded.inputs, frame.shape
        zeros = embedded_inputs.new_zeros
        differences = zeros(graph.n_writers, batch, pos, d_model)
        live = differences + frame.ablated.of_writers(slice(None))
        inputs = slice(0, graph.n_inputs)
        live[inputs] = embedded_inputs
        differences[inputs] = frame.ablated.of_writers(inputs) - embedded_inputs
        self.outputs = Outputs(live, differences)
        take = frame.answers.take
        self.outputs_at_answer = Outputs(take(live), take(differences))
        self.projected: Float[Tensor, "layers qkv_head batch pos d_head"]
        """queries, keys and values of all heads; not kept up to date where nothing needs them"""
        n_projected = len(LETTERS) * graph.n_heads
        self.projected = zeros(graph.n_layers, n_projected, batch, pos, graph.d_head)
        self.scratch = Scratch(embedded_inputs)
        self._acting: Acting | None = None

    @property
    def acting(self) -> Acting:
        """What acts on the circuit's logits."""
        if self._acting is None:
            self._acting = Acting.of(self.graph, self.kept)
        return self._acting

    def keep(self, rows: Sequence[int], kept: np.ndarray) -> None:
        """Set the edges of some readers, bool [rows, writers]."""
        self.kept[list(rows)] = kept
        self._acting = None

    def project(self, layer: int, rows: list[int], values: Tensor, *, all_positions: bool) -> None:
        """Set the queries, keys or values of some readers of a layer.

        Args:
            values: [rows, batch, pos, d_head], or without pos at the answer's.
        """
        first = self.graph.heads(layer).readers.start
        indices = [row - first for row in rows]
        if all_positions:
            self.projected[layer][span(indices)] = values
            return
        for index, value in zip(indices, values, strict=True):
            self.frame.answers.put(value, self.projected[layer][index])
