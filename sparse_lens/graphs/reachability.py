"""What lies on a path from a model's input to its output: one walk forwards and one backwards."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from sparse_lens.graphs.base import Graph, KeptEdges
from sparse_lens.graphs.channel import ChannelBlock, ChannelGraph
from sparse_lens.graphs.component import EDGES, LETTERS, ComponentGraph


@dataclass(frozen=True, eq=False)
class Reach:
    """What lies on a path from the model's input to its output.

    A kept edge of a block does so if its row is in `dst` and its column in `src`.
    """

    dst: Mapping[str, Bool[Tensor, " dst"]]
    """By block: the rows from which the output can be reached."""

    src: Mapping[str, Bool[Tensor, " src"]]
    """By block: the columns whose edges can be reached from the input."""

    edgeless_nodes: Bool[Tensor, " nodes"]
    """Those nodes on a path that no block touches; False at all others."""


def reach(graph: Graph, nodes: Bool[Tensor, " nodes"], kept: KeptEdges) -> Reach:
    """What of the kept nodes and edges lies on a path, links included."""
    if isinstance(graph, ComponentGraph):
        return component_reach(graph, nodes, kept(EDGES))
    if isinstance(graph, ChannelGraph):
        return channel_reach(graph, nodes, kept)
    raise ValueError(
        f"paths are known in component and channel graphs, got {type(graph).__name__}."
    )


@dataclass(frozen=True, eq=False)
class Acting:
    """What of a component graph acts on the logits at the answer position, over kept edges.

    The logits read the last residual stream at that position alone. So do the MLPs and the heads'
    queries whose outputs are only read there; keys and values act from every position.
    """

    readers: np.ndarray
    """bool [readers]"""

    writers: np.ndarray
    """bool [writers]"""

    readers_everywhere: np.ndarray
    """bool [readers]: those that act from other positions than the answer's, too"""

    writers_everywhere: np.ndarray
    """bool [writers]: likewise"""

    @classmethod
    def of(cls, graph: ComponentGraph, kept: np.ndarray, *, coupled: bool = False) -> "Acting":
        """Walk back from the logits.

        Args:
            kept: edges, bool [readers, writers].
            coupled: the heads of a layer act on each other directly, so all that any of them reads
                acts as soon as one of them does.
        """
        readers, readers_everywhere = np.zeros((2, graph.n_readers), dtype=bool)
        writers, writers_everywhere = np.zeros((2, graph.n_writers), dtype=bool)
        readers[graph.logits_reader] = True

        def walk_to(columns: slice) -> tuple[np.ndarray, np.ndarray]:
            writers[columns] = kept[readers, columns].any(0)
            writers_everywhere[columns] = kept[readers_everywhere, columns].any(0)
            return writers[columns], writers_everywhere[columns]

        # All readers of a writer come after it, so they are complete when the walk arrives.
        for sublayer in reversed(graph.sublayers):
            act, act_everywhere = walk_to(sublayer.writers)
            if sublayer.kind == "mlp":
                readers[sublayer.readers] = act
                readers_everywhere[sublayer.readers] = act_everywhere
                continue
            if coupled:
                act = act.any().repeat(len(act))
                act_everywhere = act_everywhere.any().repeat(len(act))
            for letter in LETTERS:
                rows = sublayer.readers_of(letter)
                readers[rows] = act
                readers_everywhere[rows] = act_everywhere if letter == "q" else act
        walk_to(slice(0, graph.n_inputs))
        return cls(readers, writers, readers_everywhere, writers_everywhere)


def component_reach(
    graph: ComponentGraph, nodes: Bool[Tensor, " nodes"], kept: Bool[Tensor, "readers writers"]
) -> Reach:
    """Paths over kept edges; a head passes on whatever its q, k or v reads."""
    reached = nodes[:-1].clone()  # writers that the input reaches
    reached[graph.n_inputs :] = False
    for sublayer in graph.sublayers:
        reads = (kept[sublayer.readers] & reached).any(1)
        n_writers = sublayer.writers.stop - sublayer.writers.start
        reached[sublayer.writers] = reads.view(-1, n_writers).any(0)  # over a head's q, k and v
    acting = torch.from_numpy(Acting.of(graph, kept.numpy()).readers)
    return Reach({EDGES: acting}, {EDGES: reached}, edgeless_nodes=torch.zeros_like(nodes))


def channel_reach(graph: ChannelGraph, nodes: Bool[Tensor, " nodes"], kept: KeptEdges) -> Reach:
    """Paths over kept edges and links.

    Links: the input to every read channel (positions included); a written channel to the same
    channel of every later read and of the final stream; q and k of a head to that head's edges from
    v to attn_out; the final stream to the output, or written channels straight to the output in a
    graph without final_resid. A v that nothing reaches still carries a constant, so its edges are
    on a path when that head's q or k is.
    """
    at_site = graph.unflatten(nodes)
    src, written = _forwards(graph, at_site, kept)
    if graph.has_final_resid:
        final = at_site["final_resid"]
    else:
        final = torch.ones(graph.d_model, dtype=torch.bool)
    dst = _backwards(graph, at_site, kept, final)
    edgeless = torch.zeros_like(nodes)
    if graph.has_final_resid:
        edgeless[graph.node_slices["final_resid"]] = final & written
    return Reach(dst=dst, src=src, edgeless_nodes=edgeless)


def _forwards(
    graph: ChannelGraph, at_site: dict[str, Tensor], kept: KeptEdges
) -> tuple[dict[str, Tensor], Tensor]:
    """By block, the sources that the input reaches; and the stream's channels written from them."""
    src: dict[str, Tensor] = {}
    written = torch.zeros(graph.d_model, dtype=torch.bool)

    def follow(block: ChannelBlock, reached: Tensor) -> Tensor:
        src[block.name] = reached
        return (kept(block.name) & reached).any(1)

    for layer in range(graph.n_layers):
        read = at_site[graph.site(layer, "attn_in").name]
        q, k, v = (follow(graph.block(layer, "attn_in", letter), read) for letter in "qkv")
        attends = (q | k).view(graph.n_heads, graph.d_head).any(1)
        v = v | attends.repeat_interleave(graph.d_head)
        written = written | follow(graph.block(layer, "v", "attn_out"), v)
        if not graph.attn_only:
            read = at_site[graph.site(layer, "mlp_in").name]
            post = follow(graph.block(layer, "mlp_in", "mlp_post"), read)
            written = written | follow(graph.block(layer, "mlp_post", "mlp_out"), post)
    return src, written


def _backwards(
    graph: ChannelGraph,
    at_site: dict[str, Tensor],
    kept: KeptEdges,
    final: Bool[Tensor, " d_model"],
) -> dict[str, Tensor]:
    """By block, the destinations that reach the output."""
    dst: dict[str, Tensor] = {}
    wanted = final  # channels of the stream that are read later

    def follow(block: ChannelBlock, needed: Tensor) -> Tensor:
        dst[block.name] = needed
        return (kept(block.name) & needed[:, None]).any(0)

    for layer in reversed(range(graph.n_layers)):
        after_block = wanted
        if not graph.attn_only:
            post = follow(graph.block(layer, "mlp_post", "mlp_out"), after_block)
            read = follow(graph.block(layer, "mlp_in", "mlp_post"), post)
            wanted = wanted | read[: graph.d_model]  # the rest are concatenated positions
        v = follow(graph.block(layer, "v", "attn_out"), after_block if graph.parallel else wanted)
        heads = v.view(graph.n_heads, graph.d_head).any(1).repeat_interleave(graph.d_head)
        for letter, needed in (("q", heads), ("k", heads), ("v", v)):
            read = follow(graph.block(layer, "attn_in", letter), needed)
            wanted = wanted | read[: graph.d_model]
    return dst
