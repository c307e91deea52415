"""How many of a model's weights a component circuit holds: its size in edges of the other graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import EDGES, LETTERS, ComponentGraph


@dataclass(frozen=True, eq=False)
class ComponentWeights:
    """Nonzero weights behind each reader and each writer of a component graph.

    A weight is inside a circuit if a kept edge needs its matrix: W_Q of a head where an edge into
    the head's q is kept, W_K and W_V likewise, W_O where an edge out of the head is; W_in of an MLP
    where an edge into it is kept, W_out where one out of it is. All nonzero weights of that matrix
    count, since a component is kept or cut as one piece. Embedding and unembedding do not, for the
    channel graph has no edges there either: the full circuit holds as many weights as that graph
    has edges.
    """

    graph: ComponentGraph
    read: Int[Tensor, " readers"]
    written: Int[Tensor, " writers"]

    @classmethod
    def of(cls, model: HookedTransformer, graph: ComponentGraph) -> ComponentWeights:
        """Count a model's weights.

        Raises:
            ValueError: for a model without a channel graph, naming the reason.
        """
        channels = ChannelGraph.from_model(model)
        read = torch.zeros(graph.n_readers, dtype=torch.long)
        written = torch.zeros(graph.n_writers, dtype=torch.long)
        heads = (graph.n_heads, graph.d_head)

        def weights(layer: int, source: str, destination: str) -> Bool[Tensor, "dst src"]:
            return channels.block(layer, source, destination).support

        for sublayer in graph.sublayers:
            layer, writers = sublayer.layer, sublayer.writers
            if sublayer.kind == "mlp":
                read[sublayer.readers] = weights(layer, "mlp_in", "mlp_post").sum()
                written[writers] = weights(layer, "mlp_post", "mlp_out").sum()
                continue
            for letter in LETTERS:
                into = weights(layer, "attn_in", letter).sum(1)  # [head * d_head]
                read[sublayer.readers_of(letter)] = into.reshape(heads).sum(1)
            written[writers] = weights(layer, "v", "attn_out").sum(0).reshape(heads).sum(1)
        return cls(graph, read, written)

    def inside(self, circuit: Circuit) -> int:
        """How many a circuit holds.

        Raises:
            ValueError: for a circuit of another graph.
        """
        if circuit.graph != self.graph:
            raise ValueError(
                f"weights were counted by the components of {self.graph}, got a circuit of "
                f"{circuit.graph}; use ComponentWeights.of(model, circuit.graph)."
            )
        edges = circuit.edge_mask(EDGES)
        return int(self.read[edges.any(1)].sum() + self.written[edges.any(0)].sum())


def component_weights(model: HookedTransformer, graph: object) -> ComponentWeights | None:
    """The weights by component; None on a channel graph, and for a model that has none."""
    if not isinstance(graph, ComponentGraph):
        return None
    try:
        return ComponentWeights.of(model, graph)
    except ValueError:
        return None
