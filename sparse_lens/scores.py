"""Scores of nodes or edges, and circuits of the best ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.tensors import check_shapes
from sparse_lens.selection import EdgesFromOutput


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """A score for every node or for every edge of a graph (exactly one of the two).

    The tensors are copied to the CPU. A node that must always be chosen, such as the logits, has
    the score infinity.

    Raises:
        ValueError: when both or neither are given, a site or block is missing, a shape is wrong,
            a score is NaN, or node scores are to be selected greedily.
    """

    graph: Graph

    nodes: Mapping[str, Float[Tensor, " width"]] | None = None
    """By site."""

    edges: Mapping[str, Float[Tensor, "dst src"]] | None = None
    """By block; values at pairs that are not edges are ignored."""

    absolute: bool = True
    """Whether the best scores are those farthest from zero; otherwise they are the largest."""

    greedy: bool = False
    """Whether edges are selected from the output backwards: one after the other, the best one of
    those that enter what already leads to the output; see `EdgesFromOutput`."""

    def __post_init__(self) -> None:
        if (self.nodes is None) == (self.edges is None):
            raise ValueError("Scores takes either nodes= or edges=, one of the two.")
        if self.greedy and self.edges is None:
            raise ValueError("greedy selection chooses edges: pass edges=, or drop greedy=True.")
        if self.nodes is not None:
            check_shapes("site", self.nodes, self.graph.site_shapes)
            object.__setattr__(self, "nodes", _copies(self.nodes))
        if self.edges is not None:
            check_shapes("block", self.edges, self.graph.block_shapes)
            object.__setattr__(self, "edges", _copies(self.edges))
        if bool(self._values.isnan().any()):
            raise ValueError(
                f"{int(self._values.isnan().sum())} of {len(self._values)} scores are not numbers; "
                "look for an infinite loss or a division by zero where they were made."
            )

    def __repr__(self) -> str:
        kind = "edges" if self.nodes is None else "nodes"
        order = (", greedy" if self.greedy else "") + ("" if self.absolute else ", signed")
        return f"Scores(of the {kind} of {self.graph}{order})"

    @classmethod
    def of_nodes(
        cls,
        graph: Graph,
        nodes: Mapping[str, Float[Tensor, " width"]],
        *,
        absolute: bool = True,
    ) -> Scores:
        """Node scores by site, with infinity for the nodes of the graph's fixed sites.

        Args:
            nodes: scores of fixed sites are ignored, and may be missing.
        """
        fixed = {name: torch.full(graph.site_shapes[name], torch.inf) for name in graph.fixed_sites}
        return cls(graph, nodes={**nodes, **fixed}, absolute=absolute)

    def by_name(self) -> dict[str, float]:
        """Every score by the name of its node or edge, in the graph's order."""
        names = self.graph.edge_names() if self.nodes is None else self.graph.node_names()
        return dict(zip(names, self._values.tolist(), strict=True))

    @property
    def importance(self) -> Float[Tensor, " n"]:
        """What nodes or edges rank by, in the graph's order: |score| or score; larger is better."""
        return self._values.abs() if self.absolute else self._values

    def top(self, *, n_nodes: int | None = None, n_edges: int | None = None) -> Circuit:
        """The circuit of the best nodes or edges.

        It has exactly as many as requested, or all if there are fewer (with `greedy`, all that can
        lead to the output). Ties are broken by the graph's order. Edge scores take `n_edges`. Node
        scores take `n_nodes`, or `n_edges` for the largest number of best nodes between which there
        are at most that many edges.

        Raises:
            ValueError: unless exactly one number is given, it is not negative, and it is one that
                these scores take.
        """
        if (n_nodes is None) == (n_edges is None):
            raise ValueError("top takes either n_nodes= or n_edges=, one of the two.")
        n = n_nodes if n_edges is None else n_edges
        if n is None or n < 0:
            raise ValueError(f"top cannot choose {n} nodes or edges; ask for 0 or more.")
        if self.nodes is None:
            if n_nodes is not None:
                raise ValueError("these scores are of edges: ask for top(n_edges=...).")
            if self.greedy:
                indices = torch.tensor(self._from_output.first(n), dtype=torch.long)
                return self._circuit_of_edges(_mask_of(indices, self.graph.n_edges))
            return self._circuit_of_edges(_best(self.importance, n))
        if n_edges is not None:
            return self._within_edges(n_edges)
        return self._circuit_of_nodes(_best(self.importance, n))

    @cached_property
    def _from_output(self) -> EdgesFromOutput:
        return EdgesFromOutput(self.graph, self.graph.unflatten_edges(self.importance))

    def _within_edges(self, n_edges: int) -> Circuit:
        """The circuit of as many best nodes as have at most `n_edges` edges between them.

        The number of edges never falls when nodes are added, so bisection finds how many.
        """
        order = self.importance.argsort(descending=True, stable=True)
        fits, too_many = 0, len(order) + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.graph.count_edges_between(_mask_of(order[:middle], len(order))) <= n_edges:
                fits = middle
            else:
                too_many = middle
        return self._circuit_of_nodes(_mask_of(order[:fits], len(order)))

    def _circuit_of_nodes(self, kept: Bool[Tensor, " n"]) -> Circuit:
        return Circuit.from_node_masks(self.graph, self.graph.unflatten(kept))

    def _circuit_of_edges(self, kept: Bool[Tensor, " n"]) -> Circuit:
        return Circuit.from_edge_masks(self.graph, self.graph.unflatten_edges(kept))

    @classmethod
    def from_eap_ig_json(
        cls, graph: Graph, source: str | PathLike[str] | Mapping[str, Any]
    ) -> Scores:
        """Read edge scores in EAP-IG's format; see `sparse_lens.eap_ig.scores_from_json`."""
        from sparse_lens import eap_ig

        return eap_ig.scores_from_json(graph, source)

    @cached_property
    def _values(self) -> Float[Tensor, " n"]:
        """The scores in the graph's order."""
        if self.nodes is not None:
            return self.graph.flatten(self.nodes)
        return self.graph.flatten_edges(self.edges or {})


def _best(values: Float[Tensor, " n"], k: int) -> Bool[Tensor, " n"]:
    """The mask of the k largest values; of equal ones the first."""
    if k >= len(values):
        return torch.ones(len(values), dtype=torch.bool)
    if k == 0:
        return torch.zeros(len(values), dtype=torch.bool)
    # Find the k-th largest without sorting (a stable sort of 85 million numbers takes half a
    # minute), then keep all above it, and the first of those that are equal to it.
    limit = values.topk(k, sorted=False).values.min()
    kept = values > limit
    ties = (values == limit).nonzero().flatten()
    kept[ties[: k - int(kept.count_nonzero())]] = True
    return kept


def _mask_of(indices: Int[Tensor, " k"], n: int) -> Bool[Tensor, " n"]:
    return torch.zeros(n, dtype=torch.bool).index_fill(0, indices, True)


def _copies(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    return MappingProxyType(copies)
