"""The base class of graphs: nodes live at sites, edges in blocks."""

import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

KeptEdges = Callable[[str], Bool[Tensor, "dst src"]]
"""The kept edges of a block, by its name."""


@dataclass(frozen=True)
class Site:
    """`width` nodes of the model that share a hook point."""

    name: str
    """The role, in a layer with the prefix `blocks.<layer>.`: `blocks.0.attn_in`, `final_resid`."""

    width: int

    hook_name: str
    """The hook point that holds the nodes' values."""

    input_hook_name: str | None = None
    """The hook point that holds the sum over incoming edges, before any AbsTopK; None for nodes
    without incoming edges."""

    per_head: bool = False
    """The hook point's last axes are `[head, d_head]` instead of `[width]`."""

    @cached_property
    def layer(self) -> int | None:
        """The layer that the site belongs to; None for the embedding and for what reads the final
        residual stream."""
        prefix, _, _ = self.name.rpartition(".")
        return int(prefix.removeprefix("blocks.")) if prefix else None

    @cached_property
    def role(self) -> str:
        """What the nodes are, whatever the layer: `heads`, `mlp`, `attn_in`, `q`, ..."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, eq=False)
class Block:
    """A matrix of edges: rows are destinations, columns are sources."""

    name: str

    support: Bool[Tensor, "dst src"]
    """Which pairs of a destination and a source are edges."""

    dst_nodes: Int[Tensor, " dst"]
    """By row, the destination node, numbered over the whole graph."""

    src_nodes: Int[Tensor, " src"]
    """By column, the source node, numbered over the whole graph."""

    @cached_property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(self.support.count_nonzero())

    @cached_property
    def is_dense(self) -> bool:
        """Whether every pair is an edge, as in a dense weight matrix; found by `compact`."""
        support = self.support  # `compact` stores one element with strides of zero
        return support.numel() > 1 and not any(support.stride()) and bool(support.flatten()[0])

    def flatten(self, matrix: Shaped[Tensor, "dst src"]) -> Shaped[Tensor, " edges"]:
        """The matrix's entries at edges, row by row."""
        pairs = matrix.flatten()
        if self._positions is None:
            return pairs
        return pairs.index_select(0, self._positions.to(pairs.device))

    def unflatten(self, edges: Shaped[Tensor, " edges"]) -> Shaped[Tensor, "dst src"]:
        """The matrix with these entries at edges and 0 elsewhere, differentiable."""
        if self._positions is not None:
            pairs = edges.new_zeros(self.support.numel())
            edges = pairs.index_copy(0, self._positions.to(edges.device), edges)
        return edges.view(self.support.shape)

    @cached_property
    def _positions(self) -> Int[Tensor, " edges"] | None:
        """Indices of the edges in the flattened matrix; None if every pair is an edge."""
        return None if self.is_dense else self.support.flatten().nonzero()[:, 0]


@dataclass(frozen=True, eq=False)
class Graph(ABC):
    """Nodes and edges of one model. Two graphs are equal when their fingerprints are.

    All tensors live on the CPU and must not be written to.
    """

    kind: ClassVar[str]
    """`component` or `channel`."""

    fixed_sites: ClassVar[tuple[str, ...]] = ()
    """The sites of the model's input and output. Methods that prune nodes always keep theirs."""

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int

    attn_only: bool
    """The blocks have no MLPs."""

    parallel: bool
    """Attention and MLP of a layer read the same residual stream, so neither reads the other."""

    sites: Mapping[str, Site]
    """In forward order."""

    blocks: Mapping[str, Block]
    """In forward order."""

    @cached_property
    def n_nodes(self) -> int:
        """Number of nodes over all sites."""
        return sum(site.width for site in self.sites.values())

    @cached_property
    def n_edges(self) -> int:
        """Number of edges over all blocks, without links (see `graphs.reachability`)."""
        return sum(block.n_edges for block in self.blocks.values())

    @cached_property
    def edge_support(self) -> Mapping[str, Bool[Tensor, "dst src"]]:
        """By block: which pairs of a destination and a source are edges."""
        return MappingProxyType({name: block.support for name, block in self.blocks.items()})

    @property
    def valued_sites(self) -> Mapping[str, Site]:
        """The sites whose nodes carry a value that can be ablated: all, if not overridden."""
        return self.sites

    @property
    def site_shapes(self) -> dict[str, tuple[int, ...]]:
        """By site: the shape of one value per node, `(width,)`."""
        return {name: (site.width,) for name, site in self.sites.items()}

    @property
    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """By block: the shape of one value per pair, `(dst, src)`."""
        return {name: tuple(support.shape) for name, support in self.edge_support.items()}

    @cached_property
    def node_slices(self) -> dict[str, slice]:
        """By site: the slice of its nodes in the numbering over the whole graph."""
        stops = np.cumsum([site.width for site in self.sites.values()]).tolist()
        return {
            name: slice(stop - site.width, stop)
            for (name, site), stop in zip(self.sites.items(), stops, strict=True)
        }

    @cached_property
    def edge_sources(self) -> Bool[Tensor, " nodes"]:
        """Nodes with outgoing edges."""
        nodes = torch.zeros(self.n_nodes, dtype=torch.bool)
        for block in self.blocks.values():
            nodes[block.src_nodes] = True
        return nodes

    @cached_property
    def touched(self) -> Bool[Tensor, " nodes"]:
        """Nodes with incoming or outgoing edges (a `final_resid` channel has none)."""
        nodes = self.edge_sources.clone()
        for block in self.blocks.values():
            nodes[block.dst_nodes] = True
        return nodes

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the graph: kind, layout, sites and edges, without the weights' values."""
        digest = hashlib.blake2b(digest_size=16)
        layout = (self.n_layers, self.n_heads, self.d_head, self.d_model, self.parallel)
        digest.update(repr((self.kind, layout)).encode())
        digest.update(repr([(site.name, site.width) for site in self.sites.values()]).encode())
        for name, support in self.edge_support.items():
            digest.update(repr((name, tuple(support.shape))).encode())
            if not bool(support.all()):
                digest.update(np.packbits(support.numpy()).tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        return self is other or self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash((self.kind, self.n_nodes, tuple(self.sites)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_nodes:,} nodes, {self.n_edges:,} edges)"

    # The numbering over the whole graph: nodes site by site; edges block by block, and within a
    # block row by row, that is destination by destination.

    def flatten(self, by_site: Mapping[str, Tensor]) -> Tensor:
        """One vector over all nodes, `[n_nodes]`, from one vector per site, `[width]`."""
        return torch.cat([by_site[name] for name in self.sites])

    def unflatten(self, nodes: Tensor) -> dict[str, Tensor]:
        """One vector per site, `[width]` (a view), from one over all nodes, `[n_nodes]`."""
        return {name: nodes[node_slice] for name, node_slice in self.node_slices.items()}

    def flatten_edges(self, by_block: Mapping[str, Tensor]) -> Tensor:
        """One vector over all edges, `[n_edges]`, from one `[dst, src]` matrix per block."""
        return torch.cat([block.flatten(by_block[name]) for name, block in self.blocks.items()])

    def unflatten_edges(self, edges: Tensor) -> dict[str, Tensor]:
        """One `[dst, src]` matrix per block, 0 where there is no edge, from `[n_edges]`.

        Differentiable.
        """
        edges_by_block = edges.split([block.n_edges for block in self.blocks.values()])
        return {
            name: block.unflatten(block_edges)
            for (name, block), block_edges in zip(self.blocks.items(), edges_by_block, strict=True)
        }

    def edges_between(self, block: str, nodes: Bool[Tensor, " nodes"]) -> Bool[Tensor, "dst src"]:
        """The edges of a block that join two of the given nodes."""
        ends = self.blocks[block]
        return ends.support & nodes[ends.dst_nodes, None] & nodes[ends.src_nodes]

    def count_edges_between(self, nodes: Bool[Tensor, " nodes"]) -> int:
        """How many edges join two of the given nodes; fast if these are few."""
        total = 0
        for block in self.blocks.values():
            dst, src = nodes[block.dst_nodes], nodes[block.src_nodes]
            if block.is_dense:
                total += int(dst.count_nonzero()) * int(src.count_nonzero())
            else:
                total += int(block.support[dst][:, src].count_nonzero())
        return total

    def endpoints(self, edges: Mapping[str, Bool[Tensor, "dst src"]]) -> Bool[Tensor, " nodes"]:
        """The nodes at the ends of edges that are given by block."""
        nodes = torch.zeros(self.n_nodes, dtype=torch.bool)
        for name, block in self.blocks.items():
            nodes[block.dst_nodes[edges[name].any(1)]] = True
            nodes[block.src_nodes[edges[name].any(0)]] = True
        return nodes

    def nodes_of_edges(
        self, edges: Mapping[str, Bool[Tensor, "dst src"]], nodes: Bool[Tensor, " nodes"]
    ) -> Bool[Tensor, " nodes"]:
        """The nodes of an edge circuit: the ends of its edges, and edgeless nodes that are given.

        Args:
            edges: by block.
            nodes: of which those are taken that no edge of the graph touches.
        """
        return (nodes & ~self.touched) | self.endpoints(edges)

    # Names.

    @abstractmethod
    def node_name(self, site: str, index: int) -> str:
        """The name of one node."""

    @abstractmethod
    def edge_name(self, block: str, dst: int, src: int) -> str:
        """The name of one edge of a block, by row and column."""

    def port(self, block: str, dst: int) -> str:
        """Where an edge enters its destination, by row: `q`, `k` or `v` of a head, else empty."""
        return ""

    @abstractmethod
    def parse_node(self, name: str) -> tuple[str, int]:
        """Site and index of a node.

        Raises:
            ValueError: when there is no such node; suggests similar names.
        """

    @abstractmethod
    def parse_edge(self, name: str) -> tuple[str, int, int]:
        """Block, row (destination) and column (source) of an edge.

        Raises:
            ValueError: when there is no such edge; suggests similar names.
        """

    def node_names(self) -> Iterator[str]:
        """Every node's name, in forward order."""
        for site in self.sites.values():
            for index in range(site.width):
                yield self.node_name(site.name, index)

    def edge_names(self) -> Iterator[str]:
        """Every edge's name, in the order of `flatten_edges`."""
        return self.names_of_edges(self.edge_support.__getitem__)

    def names_of_edges(self, kept: KeptEdges) -> Iterator[str]:
        """Names of kept edges, in the order of `edge_names`."""
        for block in self.blocks:
            for dst, src in kept(block).nonzero().tolist():
                yield self.edge_name(block, dst, src)


def compact(support: Bool[Tensor, "dst src"]) -> Bool[Tensor, "dst src"]:
    """The same support, with one stored element if every pair is an edge, as in a dense matrix."""
    if support.numel() > 0 and bool(support.all()):
        return torch.ones((), dtype=torch.bool).expand(support.shape)
    return support.cpu()


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint at similar names for an error message, empty if there are none."""
    close = difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
