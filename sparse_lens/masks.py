"""Soft masks over a graph: what the masked forward pass takes besides circuits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.tensors import check_shapes


@dataclass(frozen=True, eq=False)
class Masks:
    """One number in [0, 1] per node and per edge: 1 keeps it, 0 gives it its ablated value.

    An entry that is absent stands for ones throughout. The tensors are used as they are (not
    copied), so gradients reach whatever made them; values at pairs that are not edges are ignored.

    Raises:
        ValueError: for a site or block that the graph lacks, or a wrong shape.
    """

    graph: Graph

    nodes: Mapping[str, Float[Tensor, " width"]]
    """By site."""

    edges: Mapping[str, Float[Tensor, "dst src"]]
    """By block."""

    def __post_init__(self) -> None:
        check_shapes("site", self.nodes, self.graph.site_shapes, complete=False)
        check_shapes("block", self.edges, self.graph.block_shapes, complete=False)
        object.__setattr__(self, "nodes", MappingProxyType(dict(self.nodes)))
        object.__setattr__(self, "edges", MappingProxyType(dict(self.edges)))

    @classmethod
    def of(
        cls,
        circuit: Circuit,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Masks:
        """Zeros and ones that run as the circuit does.

        A node circuit gives no edge masks (a pruned node already carries its ablated value to
        everyone), except where `logits` is pruned, which carries nothing: there the edges into it
        are cut.

        Raises:
            ValueError: for what is no circuit.
        """
        if not isinstance(circuit, Circuit):
            raise ValueError(
                f"expected a Circuit, got {type(circuit).__name__}; a discovery has .circuit and "
                ".at(n_edges=...), scores have .top(n_edges=...)."
            )
        nodes = {
            name: mask.to(device=device, dtype=dtype) for name, mask in circuit.node_masks.items()
        }
        kept = circuit.edge_masks or {}
        if circuit.edge_masks is None and not bool(nodes.get("logits", torch.ones(1)).all()):
            kept = {name: circuit.edge_mask(name) for name in circuit.graph.blocks}
        edges = {name: mask.to(device=device, dtype=dtype) for name, mask in kept.items()}
        return cls(circuit.graph, nodes, edges)
