"""Soft masks over a graph, the input of the masked forward pass."""

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
    """One number in [0, 1] per node and per edge: 1 for its live value, 0 for its ablated value.

    A missing site or block stands for ones. The tensors are not copied, so a circuit's output can
    be differentiated with respect to what they were computed from. Entries at pairs that are not
    edges are ignored.

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
        """A circuit's masks of zeros and ones.

        A node circuit has no edge masks: a pruned node carries its ablated value to all its
        destinations, and pruned logits, which have none, read nothing but ablated values.

        Raises:
            ValueError: for anything but a circuit.
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
        edges = {name: mask.to(device=device, dtype=dtype) for name, mask in kept.items()}
        return cls(circuit.graph, nodes, edges)
