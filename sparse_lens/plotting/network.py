"""What is drawn of a circuit: its nodes and edges as plain values, apart from graph and model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.plotting.profiles import Profiles
from sparse_lens.scores import Scores

FORMAT = "sparse-lens drawing 2"

MAX_EDGES = 4000
"""More lines than this are a grey wall on any screen, and slow."""


@dataclass(frozen=True)
class Node:
    """A kept node."""

    name: str
    site: str
    layer: int | None
    index: int
    connected: bool
    """Lies on a path from input to output."""

    n_in: int
    n_out: int
    """Kept edges that end and start here."""

    score: float | None = None


@dataclass(frozen=True)
class Edge:
    """A kept edge between two of the nodes, by their numbers."""

    source: int
    target: int
    port: str
    """`q`, `k` or `v` where the reader is a head of a component graph, else empty."""

    connected: bool
    weight: float | None = None
    score: float | None = None

    @property
    def strength(self) -> float | None:
        """What gives the line its sign and width: the weight, or else the score."""
        return self.score if self.weight is None else self.weight


@dataclass(frozen=True)
class Network:
    """A circuit ready to be drawn, which a file can hold and a page can show without the model."""

    kind: str
    """`component` or `channel`."""

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    parallel: bool
    """Attention and MLP of a block read the same stream."""

    sites: tuple[str, ...]
    """All sites of the graph, in forward order, also those without a kept node."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    n_edges: int
    """Of the circuit; more than `len(edges)` when only the strongest are drawn."""

    n_connected_nodes: int
    n_connected_edges: int

    profiles: Profiles | None = None
    """What the nodes do on some prompts."""

    def edge_name(self, edge: Edge) -> str:
        """The edge's name, as in the graph."""
        port = f"<{edge.port}>" if edge.port else ""
        return f"{self.nodes[edge.source].name}->{self.nodes[edge.target].name}{port}"

    @classmethod
    def of(
        cls,
        circuit: Circuit,
        model: HookedTransformer | None = None,
        *,
        scores: Scores | None = None,
        max_edges: int = MAX_EDGES,
        profiles: Profiles | None = None,
    ) -> Network:
        """What is to be drawn of a circuit.

        Args:
            model: gives the edges of a channel graph their weights.
            scores: of the nodes or edges of the same graph.
            max_edges: draw only the strongest of a larger circuit (and all of its nodes).
            profiles: what the nodes do on some prompts.

        Raises:
            ValueError: when the scores are of another graph, or the model has another shape.
        """
        graph = circuit.graph
        if scores is not None and scores.graph != graph:
            raise ValueError(
                f"the scores are of another graph, {scores.graph}, than the circuit, {graph}."
            )
        weights: Mapping[str, Tensor] | None = None
        if model is not None and isinstance(graph, ChannelGraph):
            weights = {
                block: weight.detach().float().cpu()
                for block, weight in graph.edge_weights(model).items()
            }
        connected = circuit.connected()
        nodes = _nodes(circuit, connected, scores)
        edges = _edges(circuit, connected, weights, scores, nodes, max_edges)
        return cls(
            kind=graph.kind,
            n_layers=graph.n_layers,
            n_heads=graph.n_heads,
            d_head=graph.d_head,
            d_model=graph.d_model,
            parallel=graph.parallel,
            sites=tuple(graph.sites),
            nodes=nodes,
            edges=edges,
            n_edges=circuit.n_edges,
            n_connected_nodes=connected.n_nodes,
            n_connected_edges=connected.n_edges,
            profiles=profiles,
        )

    def to_json(self) -> str:
        """The same as text, which `from_json` reads."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["nodes"] = _columns(Node, self.nodes)
        values["edges"] = _columns(Edge, self.edges)
        values["profiles"] = None if self.profiles is None else self.profiles.to_dict()
        return json.dumps({"format": FORMAT, **values}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Network:
        """Read what `to_json` wrote.

        Raises:
            ValueError: when the text is something else.
        """
        try:
            values: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a drawing of a circuit: {error}.") from error
        found = values.pop("format", None) if isinstance(values, dict) else None
        if found != FORMAT:
            raise ValueError(f"not a drawing of a circuit: expected {FORMAT!r}, got {found!r}.")
        values["sites"] = tuple(values["sites"])
        values["nodes"] = tuple(map(Node, *values["nodes"].values()))
        values["edges"] = tuple(map(Edge, *values["edges"].values()))
        if values["profiles"] is not None:
            values["profiles"] = Profiles.from_dict(values["profiles"])
        return cls(**values)


def _columns(cls: type, values: tuple[Any, ...]) -> dict[str, list[Any]]:
    """By field a list, in the order of the fields."""
    return {f.name: [getattr(value, f.name) for value in values] for f in fields(cls)}


def _nodes(circuit: Circuit, connected: Circuit, scores: Scores | None) -> tuple[Node, ...]:
    graph = circuit.graph
    by_site = scores.nodes if scores is not None else None
    into, out = _degrees(circuit)
    return tuple(
        Node(
            name=graph.node_name(site, index),
            site=site,
            layer=graph.sites[site].layer,
            index=index,
            connected=bool(connected.node_masks[site][index]),
            n_in=int(into[graph.node_slices[site].start + index]),
            n_out=int(out[graph.node_slices[site].start + index]),
            score=None if by_site is None else _number(by_site[site][index]),
        )
        for site, mask in circuit.node_masks.items()
        for index in mask.nonzero().flatten().tolist()
    )


def _degrees(circuit: Circuit) -> tuple[Int[Tensor, " nodes"], Int[Tensor, " nodes"]]:
    """By node: kept edges that come in, and that go out."""
    graph = circuit.graph
    into = torch.zeros(graph.n_nodes, dtype=torch.long)
    out = torch.zeros(graph.n_nodes, dtype=torch.long)
    for name, block in graph.blocks.items():
        mask = circuit.edge_mask(name)
        into.index_add_(0, block.dst_nodes, mask.sum(1))
        out.index_add_(0, block.src_nodes, mask.sum(0))
    return into, out


def _edges(
    circuit: Circuit,
    connected: Circuit,
    weights: Mapping[str, Tensor] | None,
    scores: Scores | None,
    nodes: tuple[Node, ...],
    max_edges: int,
) -> tuple[Edge, ...]:
    graph = circuit.graph
    numbers = {graph.node_slices[node.site].start + node.index: i for i, node in enumerate(nodes)}
    by_block = scores.edges if scores is not None else None
    edges: list[Edge] = []
    drawn = _strongest(circuit, by_block if weights is None else weights, max_edges)
    for block, (dst, src) in drawn.items():
        ends, on_path = graph.blocks[block], connected.edge_mask(block)[dst, src].tolist()
        for row, column, kept in zip(dst.tolist(), src.tolist(), on_path, strict=True):
            edges.append(
                Edge(
                    source=numbers[int(ends.src_nodes[column])],
                    target=numbers[int(ends.dst_nodes[row])],
                    port=graph.edge_name(block, row, column).partition("<")[2].rstrip(">"),
                    connected=kept,
                    weight=None if weights is None else _number(weights[block][row, column]),
                    score=None if by_block is None else _number(by_block[block][row, column]),
                )
            )
    return tuple(edges)


def _strongest(
    circuit: Circuit, strengths: Mapping[str, Tensor] | None, count: int
) -> dict[str, tuple[Int[Tensor, " _"], Int[Tensor, " _"]]]:
    """By block the rows and columns of so many edges; of equally strong ones the first.

    Where nothing is known of their strengths, all are equally strong.
    """
    graph = circuit.graph
    kept = {block: circuit.edge_mask(block).nonzero(as_tuple=True) for block in graph.blocks}
    counts = [len(dst) for dst, _ in kept.values()]
    strength = torch.zeros(sum(counts))
    if strengths is not None:
        strength = torch.cat([strengths[block][ends].abs() for block, ends in kept.items()])
    strong = torch.zeros(len(strength), dtype=torch.bool)
    strong[strength.argsort(descending=True, stable=True)[:count]] = True
    parts = zip(kept.items(), strong.split(counts), strict=True)
    return {block: (dst[part], src[part]) for (block, (dst, src)), part in parts}


def _number(value: Tensor) -> float | None:
    """Six digits; None for the infinite score of a node that is always kept."""
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
