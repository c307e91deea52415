"""One circuit as it runs on some prompts: what passes of its variants read, and adopting writes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import LETTERS, ComponentGraph
from sparse_lens.graphs.reachability import Acting
from sparse_lens.patching.incremental.frame import Frame
from sparse_lens.patching.incremental.spans import span
from sparse_lens.patching.memory import Scratch


class CircuitState:
    """The outputs of all components of a circuit, and how far each is from its ablated value.

    At the start everything is as it is when every edge is cut, except for the inputs.

    Args:
        kept: the circuit's edges, bool [readers, writers].
    """

    def __init__(self, graph: ComponentGraph, frame: Frame, kept: np.ndarray) -> None:
        self.graph, self.frame, self.kept = graph, frame, kept.copy()
        zeros, (batch, pos, d_model) = frame.inputs.new_zeros, frame.shape
        self.differences: Float[Tensor, "writers batch pos d_model"]
        """ablated - live; not kept up to date where nothing needs it"""
        self.differences = zeros(graph.n_writers, batch, pos, d_model)
        self.live = self.differences + frame.ablated.of_writers(slice(None))
        inputs = slice(0, graph.n_inputs)
        self.live[inputs] = frame.inputs
        self.differences[inputs] = frame.ablated.of_writers(inputs) - frame.inputs
        self.live_at_answer = frame.answers.take(self.live)
        self.differences_at_answer = frame.answers.take(self.differences)
        self.projected: Float[Tensor, "layers qkv_head batch pos d_head"]
        """queries, keys and values of all heads; not kept up to date where nothing needs them"""
        n_projected = len(LETTERS) * graph.n_heads
        self.projected = zeros(graph.n_layers, n_projected, batch, pos, graph.d_head)
        self.scratch = Scratch(frame.inputs)
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

    def add(self, writers: list[int], changes: Tensor, *, all_positions: bool) -> None:
        """Let what writers write grow by so much, at all positions or at the answer's.

        Args:
            changes: [writers, batch, pos, d_model], or without pos.
        """
        live = self.live if all_positions else self.live_at_answer
        differences = self.differences if all_positions else self.differences_at_answer
        indices = span(writers)
        if isinstance(indices, slice):
            live[indices].add_(changes)
            differences[indices].sub_(changes)
            return
        for writer, change in zip(writers, changes, strict=True):  # in place: no copies of many
            live[writer].add_(change)
            differences[writer].sub_(change)

    def project(self, layer: int, rows: list[int], values: Tensor, *, all_positions: bool) -> None:
        """Set the queries, keys or values of some readers of a layer.

        Args:
            values: [rows, batch, pos, d_head], or without pos.
        """
        first = self.graph.heads(layer).readers.start
        indices = [row - first for row in rows]
        if all_positions:
            self.projected[layer][span(indices)] = values
            return
        for index, value in zip(indices, values, strict=True):
            self.frame.answers.put(value, self.projected[layer][index])
