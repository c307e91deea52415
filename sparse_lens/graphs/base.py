"""What every graph has in common: sites that hold nodes, blocks that hold edges."""

import difflib
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

KeptEdges = Callable[[str], Bool[Tensor, "dst src"]]
"""The kept edges of a block, by its name."""


@dataclass(frozen=True)
class Site:
    """A place in the model where `width` nodes live side by side."""

    name: str
    width: int

    hook_name: str
    """The hook point that holds the nodes' values."""

    input_hook_name: str | None = None
    """The hook point where the sum over incoming edges arrives, before any AbsTopK; None for nodes
    without incoming edges."""

    @property
    def layer(self) -> int | None:
        """The block that the site belongs to; None for the model's two ends."""
        match = re.match(r"blocks\.(\d+)\.", self.name)
        return int(match[1]) if match else None


@dataclass(frozen=True, eq=False)
class Ends:
    """Which nodes a block's rows (destinations) and columns (sources) belong to.

    Nodes are numbered over the whole graph, site after site.
    """

    dst: Int[Tensor, " dst"]
    src: Int[Tensor, " src"]


@dataclass(frozen=True, eq=False)
class Graph(ABC):
    """Nodes and edges of one model. Two graphs are equal when their fingerprints are.

    All tensors live on the CPU and must not be written to.
    """

    kind: ClassVar[str]
    """`component` or `channel`."""

    fixed_sites: ClassVar[tuple[str, ...]] = ()
    """Sites through which the input comes in and the answer goes out: circuits found by pruning
    nodes keep all of these."""

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int

    attn_only: bool
    """The blocks have no MLPs."""

    parallel: bool
    """Attention and MLP of a block read the same stream, so neither reads the other."""

    sites: Mapping[str, Site]
    """In forward order."""

    edge_support: Mapping[str, Bool[Tensor, "dst src"]]
    """By block, in forward order: which pairs of a destination and a source are edges."""

    ends: Mapping[str, Ends]
    """By block: the nodes that its rows and columns belong to."""

    @cached_property
    def n_nodes(self) -> int:
        """Number of nodes over all sites."""
        return sum(site.width for site in self.sites.values())

    @cached_property
    def n_edges(self) -> int:
        """Number of edges over all blocks; links are not counted."""
        return sum(int(support.count_nonzero()) for support in self.edge_support.values())

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
        """By site: where its nodes stand in the numbering over the whole graph."""
        stops = np.cumsum([site.width for site in self.sites.values()]).tolist()
        return {
            name: slice(stop - site.width, stop)
            for (name, site), stop in zip(self.sites.items(), stops, strict=True)
        }

    @cached_property
    def touched(self) -> Bool[Tensor, " nodes"]:
        """Nodes that can be the end of an edge (a `final_resid` channel cannot)."""
        touched = torch.zeros(self.n_nodes, dtype=torch.bool)
        for ends in self.ends.values():
            touched[ends.dst] = True
            touched[ends.src] = True
        return touched

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the graph: kind, layout, sites and edges; not of weights' values."""
        digest = hashlib.blake2b(digest_size=16)
        layout = (self.n_layers, self.n_heads, self.d_head, self.d_model, self.parallel)
        digest.update(repr((self.kind, layout)).encode())
        digest.update(repr([(site.name, site.width) for site in self.sites.values()]).encode())
        for block, support in self.edge_support.items():
            digest.update(repr((block, tuple(support.shape))).encode())
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

    # Numbering over the whole graph.

    def flatten(self, by_site: Mapping[str, Tensor]) -> Tensor:
        """One vector over all nodes, `[n_nodes]`, out of one for each site."""
        return torch.cat([by_site[name] for name in self.sites])

    def unflatten(self, nodes: Tensor) -> dict[str, Tensor]:
        """One vector for each site (views) out of one over all nodes."""
        return {name: nodes[where] for name, where in self.node_slices.items()}

    def edges_between(self, block: str, nodes: Bool[Tensor, " nodes"]) -> Bool[Tensor, "dst src"]:
        """The edges of a block that join two of the given nodes."""
        ends = self.ends[block]
        return self.edge_support[block] & nodes[ends.dst, None] & nodes[ends.src]

    def count_edges_between(self, nodes: Bool[Tensor, " nodes"]) -> int:
        """How many edges join two of the given nodes; cheap when these are few."""
        total = 0
        for block, support in self.edge_support.items():
            dst, src = nodes[self.ends[block].dst], nodes[self.ends[block].src]
            if is_everything(support):
                total += int(dst.count_nonzero()) * int(src.count_nonzero())
            else:
                total += int(support[dst][:, src].count_nonzero())
        return total

    def endpoints(self, edges: Mapping[str, Bool[Tensor, "dst src"]]) -> Bool[Tensor, " nodes"]:
        """The nodes at the ends of edges, given by block."""
        nodes = torch.zeros(self.n_nodes, dtype=torch.bool)
        for block, ends in self.ends.items():
            nodes[ends.dst[edges[block].any(1)]] = True
            nodes[ends.src[edges[block].any(0)]] = True
        return nodes

    # Names.

    @abstractmethod
    def node_name(self, site: str, index: int) -> str:
        """The name of one node."""

    @abstractmethod
    def edge_name(self, block: str, dst: int, src: int) -> str:
        """The name of one edge of a block, by row and column."""

    @abstractmethod
    def parse_node(self, name: str) -> tuple[str, int]:
        """Site and index of a node.

        Raises:
            ValueError: when there is no such node; suggests names that come close.
        """

    @abstractmethod
    def parse_edge(self, name: str) -> tuple[str, int, int]:
        """Block, row (destination) and column (source) of an edge.

        Raises:
            ValueError: when there is no such edge; suggests names that come close.
        """

    def ordered_edges(
        self, block: str, mask: Bool[Tensor, "dst src"]
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Rows and columns of the edges in a mask, in the order of `edge_names`."""
        dst, src = mask.nonzero(as_tuple=True)
        return dst, src

    def node_names(self) -> Iterator[str]:
        """Every node's name, in forward order."""
        for site in self.sites.values():
            for index in range(site.width):
                yield self.node_name(site.name, index)

    def edge_names(self) -> Iterator[str]:
        """Every edge's name, in a fixed order: block after block."""
        return self.names_of_edges(self.edge_support.__getitem__)

    def names_of_edges(self, kept: KeptEdges) -> Iterator[str]:
        """Names of kept edges, in the order of `edge_names`."""
        for block in self.edge_support:
            dst, src = self.ordered_edges(block, kept(block))
            for row, column in zip(dst.tolist(), src.tolist(), strict=True):
                yield self.edge_name(block, row, column)


def compact(support: Bool[Tensor, "dst src"]) -> Bool[Tensor, "dst src"]:
    """The same support; one stored element when every pair is an edge, as in a dense matrix."""
    if support.numel() > 0 and bool(support.all()):
        return torch.ones((), dtype=torch.bool).expand(support.shape)
    return support.cpu()


def is_everything(support: Bool[Tensor, "dst src"]) -> bool:
    """Whether `compact` found that every pair is an edge."""
    return support.numel() > 1 and not any(support.stride()) and bool(support.flatten()[0])


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint for an error message, empty when nothing comes close."""
    close = difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
