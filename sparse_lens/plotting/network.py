"""A circuit as it is drawn: its nodes and edges as plain values, without graph and model."""

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
"""Edges of a drawing; single lines cannot be told apart among more, which also draw slowly."""


@dataclass(frozen=True)
class Node:
    """A kept node."""

    name: str
    site: str
    layer: int | None
    """None for a site outside the layers, such as `logits`."""

    index: int
    """In its site."""

    connected: bool
    """Whether it lies on a path from input to output."""

    n_in: int
    """Kept edges that end at the node."""

    n_out: int
    """Kept edges that start at the node."""

    score: float | None = None


@dataclass(frozen=True)
class Edge:
    """A kept edge between two of the nodes, which are given by their index in `Network.nodes`."""

    source: int
    target: int
    port: str
    """`q`, `k` or `v` where the reader is a head of a component graph, else empty."""

    connected: bool
    """Whether it lies on a path from input to output."""

    weight: float | None = None
    score: float | None = None

    @property
    def strength(self) -> float | None:
        """The weight, or else the score: it gives the line its colour and width."""
        return self.score if self.weight is None else self.weight


@dataclass(frozen=True)
class Network:
    """A circuit ready to be drawn, which can be saved and drawn without the model."""

    kind: str
    """`component` or `channel`."""

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    parallel: bool
    """Whether attention and MLP of a block read the same stream."""

    sites: tuple[str, ...]
    """All sites of the graph, in forward order, also those without a kept node."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    n_edges: int
    """Edges of the circuit; more than `len(edges)` when only the strongest are drawn."""

    n_connected_nodes: int
    n_connected_edges: int

    profiles: Profiles | None = None
    """Activations of the nodes on example prompts."""

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
        """The drawing of a circuit.

        Args:
            model: gives the edges of a channel graph their weights.
            scores: of the nodes or edges of the same graph.
            max_edges: the most edges to draw, of a larger circuit the strongest; nodes all stay.
            profiles: activations of the nodes on example prompts.

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
        """The drawing as JSON, which `from_json` reads."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["nodes"] = _by_field(Node, self.nodes)
        values["edges"] = _by_field(Edge, self.edges)
        values["profiles"] = None if self.profiles is None else self.profiles.to_dict()
        return json.dumps({"format": FORMAT, **values}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Network:
        """The drawing that `to_json` wrote.

        Raises:
            ValueError: when the text is not JSON, or not of this format.
        """
        try:
            values: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a drawing of a circuit: {error}.") from error
        file_format = values.pop("format", None) if isinstance(values, dict) else None
        if file_format != FORMAT:
            raise ValueError(
                f"not a drawing of a circuit: expected {FORMAT!r}, got {file_format!r}."
            )
        values["sites"] = tuple(values["sites"])
        values["nodes"] = tuple(map(Node, *values["nodes"].values()))
        values["edges"] = tuple(map(Edge, *values["edges"].values()))
        if values["profiles"] is not None:
            values["profiles"] = Profiles.from_dict(values["profiles"])
        return cls(**values)


def _by_field(cls: type, items: tuple[Any, ...]) -> dict[str, list[Any]]:
    """By field, in the order of the class, a list of the values of all items."""
    return {f.name: [getattr(item, f.name) for item in items] for f in fields(cls)}


def _nodes(circuit: Circuit, connected: Circuit, scores: Scores | None) -> tuple[Node, ...]:
    graph = circuit.graph
    score_of = scores.nodes if scores is not None else None
    n_in, n_out = _degrees(circuit)
    return tuple(
        Node(
            name=graph.node_name(site, index),
            site=site,
            layer=graph.sites[site].layer,
            index=index,
            connected=bool(connected.node_masks[site][index]),
            n_in=int(n_in[graph.node_slices[site].start + index]),
            n_out=int(n_out[graph.node_slices[site].start + index]),
            score=None if score_of is None else _number(score_of[site][index]),
        )
        for site, mask in circuit.node_masks.items()
        for index in mask.nonzero().flatten().tolist()
    )


def _degrees(circuit: Circuit) -> tuple[Int[Tensor, " nodes"], Int[Tensor, " nodes"]]:
    """By node the number of kept edges that end there, and that start there."""
    graph = circuit.graph
    n_in = torch.zeros(graph.n_nodes, dtype=torch.long)
    n_out = torch.zeros(graph.n_nodes, dtype=torch.long)
    for name, block in graph.blocks.items():
        mask = circuit.edge_mask(name)  # [dst, src]
        n_in.index_add_(0, block.dst_nodes, mask.sum(1))
        n_out.index_add_(0, block.src_nodes, mask.sum(0))
    return n_in, n_out


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
    score_of = scores.edges if scores is not None else None
    edges: list[Edge] = []
    drawn = _strongest(circuit, score_of if weights is None else weights, max_edges)
    for name, (rows, columns) in drawn.items():
        block = graph.blocks[name]
        on_path = connected.edge_mask(name)[rows, columns].tolist()
        for row, column, is_connected in zip(rows.tolist(), columns.tolist(), on_path, strict=True):
            edges.append(
                Edge(
                    source=numbers[int(block.src_nodes[column])],
                    target=numbers[int(block.dst_nodes[row])],
                    port=graph.port(name, row),
                    connected=is_connected,
                    weight=None if weights is None else _number(weights[name][row, column]),
                    score=None if score_of is None else _number(score_of[name][row, column]),
                )
            )
    return tuple(edges)


def _strongest(
    circuit: Circuit, strengths: Mapping[str, Tensor] | None, count: int
) -> dict[str, tuple[Int[Tensor, " _"], Int[Tensor, " _"]]]:
    """By block the rows (readers) and columns (writers) of the `count` strongest edges.

    Of equally strong edges the first are taken; without strengths all are equally strong.
    """
    indices = {
        name: circuit.edge_mask(name).nonzero(as_tuple=True) for name in circuit.graph.blocks
    }
    counts = [len(rows) for rows, _ in indices.values()]
    strength = torch.zeros(sum(counts))  # [edges of all blocks]
    if strengths is not None:
        strength = torch.cat([strengths[name][index].abs() for name, index in indices.items()])
    is_drawn = torch.zeros(len(strength), dtype=torch.bool)
    is_drawn[strength.argsort(descending=True, stable=True)[:count]] = True
    return {
        name: (rows[mask], columns[mask])
        for (name, (rows, columns)), mask in zip(
            indices.items(), is_drawn.split(counts), strict=True
        )
    }


def _number(value: Tensor) -> float | None:
    """The value to six digits; None for the infinite score of a node that is always kept."""
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
