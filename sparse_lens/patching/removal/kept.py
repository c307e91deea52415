"""What a circuit keeps, as plain masks that cost nothing to change by one entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph


@dataclass(frozen=True, eq=False)
class Kept:
    """The masks of a circuit, unchecked; see :class:`Circuit` for what they mean."""

    graph: Graph

    nodes: Bool[Tensor, " nodes"]
    """Of an edge circuit, the ends of its edges are among them."""

    edges: Mapping[str, Bool[Tensor, "dst src"]] | None = None
    """By block; None when they are implied by the nodes."""

    @classmethod
    def of(cls, circuit: Circuit) -> Kept:
        """What a circuit keeps."""
        graph, edges = circuit.graph, None
        if not circuit.is_node_circuit:
            edges = {block: circuit.edge_mask(block) for block in graph.blocks}
        return cls(graph, graph.flatten(circuit.node_masks), edges)

    def circuit(self) -> Circuit:
        """The circuit with these masks."""
        by_site = self.graph.unflatten(self.nodes)
        if self.edges is None:
            return Circuit.from_node_masks(self.graph, by_site)
        return Circuit.from_edge_masks(self.graph, self.edges, node_masks=by_site)
