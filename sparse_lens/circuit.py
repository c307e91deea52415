"""A circuit: the kept nodes and edges of a graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import networkx as nx
import torch
from jaxtyping import Bool
from torch import Tensor

from sparse_lens.graphs.base import Graph, did_you_mean
from sparse_lens.graphs.reachability import reach
from sparse_lens.graphs.tensors import FrozenTensors, check_masks


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """Kept nodes and kept edges of a graph; immutable.

    There are two kinds. A **node circuit** (`edge_masks` is None) is given by its nodes; its edges
    are all edges between them, which are counted but not stored. An **edge circuit** is given by
    its edges; its nodes are their ends, and those of the nodes without edges in the graph
    (`final_resid` of a channel graph) that were given with it.

    A pruned node carries its ablated value to all its destinations; a cut edge carries its source's
    ablated value to its own destination.

    `&`, `|`, `-` of two node circuits act on their nodes. If either is an edge circuit, they act on
    the edges of both (a node circuit's implied ones are computed), and on the nodes without edges
    in the graph. Circuits are equal when they keep the same nodes and edges of equal graphs.
    """

    graph: Graph

    node_masks: Mapping[str, Bool[Tensor, " width"]]
    """By site."""

    edge_masks: Mapping[str, Bool[Tensor, "dst src"]] | None = None
    """By block; None for a node circuit, whose edges are implied."""

    def __post_init__(self) -> None:
        graph = self.graph
        check_masks("site", self.node_masks, graph.site_shapes)
        object.__setattr__(self, "node_masks", FrozenTensors(self.node_masks))
        if self.edge_masks is None:
            return
        check_masks("block", self.edge_masks, graph.block_shapes)
        object.__setattr__(self, "edge_masks", FrozenTensors(self.edge_masks))
        for block, support in graph.edge_support.items():
            outside = int((self._edges(block) & ~support).count_nonzero())
            if outside:
                raise ValueError(
                    f"the mask of block {block!r} keeps {outside} pairs that are not edges of "
                    f"{graph}; pass mask & graph.edge_support[{block!r}]."
                )
        ends = graph.endpoints({block: self._edges(block) for block in graph.blocks})
        if not torch.equal(self._nodes & graph.touched, ends):
            raise ValueError(
                "the nodes of an edge circuit must be the ends of its edges, and these differ; "
                "make it with Circuit.from_edge_masks."
            )

    # Making circuits.

    @classmethod
    def full(cls, graph: Graph) -> Circuit:
        """The node circuit of all nodes, and so of all edges."""
        return cls._of_nodes(graph, torch.ones(graph.n_nodes, dtype=torch.bool))

    @classmethod
    def empty(cls, graph: Graph) -> Circuit:
        """The node circuit without nodes or edges."""
        return cls._of_nodes(graph, torch.zeros(graph.n_nodes, dtype=torch.bool))

    @classmethod
    def from_node_names(cls, graph: Graph, names: Iterable[str]) -> Circuit:
        """The node circuit of the named nodes.

        On a component graph `logits` and the embedding are nodes, too, and have to be named.

        Raises:
            ValueError: for a name that is not a node; suggests similar names.
        """
        nodes = torch.zeros(graph.n_nodes, dtype=torch.bool)
        for name in names:
            site, index = graph.parse_node(name)
            nodes[graph.node_slices[site].start + index] = True
        return cls._of_nodes(graph, nodes)

    @classmethod
    def from_node_masks(
        cls, graph: Graph, node_masks: Mapping[str, Bool[Tensor, " width"]]
    ) -> Circuit:
        """The node circuit of the nodes in the masks, one mask per site.

        Raises:
            ValueError: for a missing or unknown site, or a mask of another shape.
        """
        return cls(graph, node_masks)

    @classmethod
    def from_edge_names(cls, graph: Graph, names: Iterable[str]) -> Circuit:
        """The edge circuit of the named edges.

        It keeps all nodes without edges in the graph (`final_resid` of a channel graph).

        Raises:
            ValueError: for a name that is not an edge; suggests similar names.
        """
        kept: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for name in names:
            block, dst, src = graph.parse_edge(name)
            kept[block].append((dst, src))
        masks = {}
        for block, shape in graph.block_shapes.items():
            masks[block] = torch.zeros(shape, dtype=torch.bool)
            if kept[block]:
                masks[block][tuple(torch.tensor(kept[block]).T)] = True
        return cls.from_edge_masks(graph, masks)

    @classmethod
    def from_edge_masks(
        cls,
        graph: Graph,
        edge_masks: Mapping[str, Bool[Tensor, "dst src"]],
        *,
        node_masks: Mapping[str, Bool[Tensor, " width"]] | None = None,
    ) -> Circuit:
        """The edge circuit of the edges in the masks, one mask per block.

        Args:
            node_masks: by site, which of the nodes without edges in the graph (`final_resid` of a
                channel graph) to keep; None for all. Other nodes in these masks are ignored.

        Raises:
            ValueError: for a missing or unknown block, a mask of another shape, or a pair that is
                not an edge.
        """
        check_masks("block", edge_masks, graph.block_shapes)
        nodes_by_site = {
            name: torch.ones(shape, dtype=torch.bool) for name, shape in graph.site_shapes.items()
        }
        nodes_by_site.update(node_masks or {})
        check_masks("site", nodes_by_site, graph.site_shapes)
        nodes = graph.flatten({name: mask.cpu() for name, mask in nodes_by_site.items()})
        edges = {block: mask.cpu() for block, mask in edge_masks.items()}
        return cls._of_edges(graph, edges, nodes)

    @classmethod
    def _of_edges(
        cls,
        graph: Graph,
        edges: Mapping[str, Bool[Tensor, "dst src"]],
        nodes: Bool[Tensor, " nodes"],
    ) -> Circuit:
        kept = graph.nodes_of_edges(edges, nodes)
        return cls(graph, graph.unflatten(kept), edges)

    @classmethod
    def _of_nodes(cls, graph: Graph, nodes: Bool[Tensor, " nodes"]) -> Circuit:
        return cls(graph, graph.unflatten(nodes))

    # Kept nodes and edges.

    @property
    def is_node_circuit(self) -> bool:
        """Whether the circuit is given by its nodes, so that its edges are implied."""
        return self.edge_masks is None

    @cached_property
    def n_nodes(self) -> int:
        """Number of kept nodes."""
        return int(self._nodes.count_nonzero())

    @cached_property
    def n_edges(self) -> int:
        """Number of kept edges."""
        if self.edge_masks is None:
            return self.graph.count_edges_between(self._nodes)
        return sum(int(self._edges(block).count_nonzero()) for block in self.edge_masks)

    def edge_mask(self, block: str) -> Bool[Tensor, "dst src"]:
        """The kept edges of a block; computed if they are implied by the nodes."""
        if block not in self.graph.blocks:
            hint = did_you_mean(block, list(self.graph.blocks))
            raise ValueError(f"{self.graph} has no block {block!r}.{hint}")
        return self._edges(block).clone()

    def node_names(self) -> list[str]:
        """Names of the kept nodes, in forward order."""
        graph = self.graph
        return [
            graph.node_name(site, index)
            for site, mask in self.node_masks.items()
            for index in mask.nonzero().flatten().tolist()
        ]

    def edge_names(self) -> list[str]:
        """Names of the kept edges, in the graph's order."""
        return list(self.graph.names_of_edges(self._edges))

    def connected(self) -> Circuit:
        """The circuit without nodes and edges that lie on no path from the input to the output.

        Paths lead over kept nodes and edges, and over links, which are not edges and never cut (see
        `sparse_lens.graphs.reachability`). The result is a circuit of the same kind.
        """
        graph = self.graph
        on_path = reach(graph, self._nodes, self._edges)
        edges = {
            block: self._edges(block) & on_path.dst[block][:, None] & on_path.src[block]
            for block in graph.blocks
        }
        if not self.is_node_circuit:
            return Circuit._of_edges(graph, edges, on_path.edgeless_nodes)
        return Circuit._of_nodes(graph, graph.endpoints(edges) | on_path.edgeless_nodes)

    # Set algebra.

    def __and__(self, other: Circuit) -> Circuit:
        return self._combine(other, torch.logical_and)

    def __or__(self, other: Circuit) -> Circuit:
        return self._combine(other, torch.logical_or)

    def __sub__(self, other: Circuit) -> Circuit:
        return self._combine(other, lambda a, b: a & ~b)

    def iou(self, other: Circuit) -> float:
        """Intersection over union of the nodes of two node circuits, else of the edges.

        1 for two circuits that keep nothing.
        """
        both, either = self & other, self | other
        if self.is_node_circuit and other.is_node_circuit:
            return both.n_nodes / either.n_nodes if either.n_nodes else 1.0
        return both.n_edges / either.n_edges if either.n_edges else 1.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        if self.graph != other.graph or not torch.equal(self._nodes, other._nodes):
            return False
        if self.is_node_circuit and other.is_node_circuit:
            return True
        return all(torch.equal(self._edges(b), other._edges(b)) for b in self.graph.blocks)

    def __hash__(self) -> int:
        return hash((self.graph, self._nodes.numpy().tobytes()))

    def __repr__(self) -> str:
        kind = "nodes" if self.is_node_circuit else "edges"
        return (
            f"Circuit(given by {kind}: {self.n_nodes:,} of {self.graph.n_nodes:,} nodes, "
            f"{self.n_edges:,} of {self.graph.n_edges:,} edges)"
        )

    def _combine(self, other: Circuit, operation: Any) -> Circuit:
        if not isinstance(other, Circuit):
            return NotImplemented
        graph = self.graph
        if graph != other.graph:
            raise ValueError(
                f"the circuits belong to different graphs, {graph} and {other.graph} "
                f"(fingerprints {graph.fingerprint} and {other.graph.fingerprint})."
            )
        nodes = operation(self._nodes, other._nodes)
        if self.is_node_circuit and other.is_node_circuit:
            return Circuit._of_nodes(graph, nodes)
        edges = {b: operation(self._edges(b), other._edges(b)) for b in graph.blocks}
        return Circuit._of_edges(graph, edges, nodes)

    # Files and other formats. Their modules import this one, so they are imported on use.

    def save(self, path: str | PathLike[str]) -> None:
        """Write to one safetensors file; see `sparse_lens.circuit_io.save`."""
        from sparse_lens import circuit_io

        circuit_io.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str], graph: Graph) -> Circuit:
        """Read what `save` wrote; see `sparse_lens.circuit_io.load`."""
        from sparse_lens import circuit_io

        return circuit_io.load(path, graph)

    def to_networkx(self, *, links: bool = False) -> nx.MultiDiGraph:
        """The kept nodes and edges in networkx; see `sparse_lens.circuit_network.to_networkx`."""
        from sparse_lens import circuit_network

        return circuit_network.to_networkx(self, links=links)

    def to_eap_ig_json(
        self, path: str | PathLike[str] | None = None, *, scores: Any = None
    ) -> dict[str, Any]:
        """The graph in EAP-IG's format; see `sparse_lens.eap_ig.to_json`."""
        from sparse_lens import eap_ig

        return eap_ig.to_json(self, path, scores=scores)

    @classmethod
    def from_eap_ig_json(
        cls, graph: Graph, source: str | PathLike[str] | Mapping[str, Any]
    ) -> Circuit:
        """Read a graph in EAP-IG's format; see `sparse_lens.eap_ig.circuit_from_json`."""
        from sparse_lens import eap_ig

        return eap_ig.circuit_from_json(graph, source)

    # Masks without the copies that FrozenTensors makes.

    @cached_property
    def _nodes(self) -> Bool[Tensor, " nodes"]:
        return self.graph.flatten(self.node_masks)

    def _edges(self, block: str) -> Bool[Tensor, "dst src"]:
        if isinstance(self.edge_masks, FrozenTensors):
            return self.edge_masks._tensors[block]
        return self.graph.edges_between(block, self._nodes)
