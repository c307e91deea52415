"""Which nodes and edges lie on a path from a model's input to its output.

One walk forwards finds what the input reaches, one walk backwards what reaches the output. Paths
lead over kept edges and over links. **Links** are connections that are not edges and that no
circuit cuts; `channel_reach` lists them.
"""

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
    """The nodes and edges on a path from the model's input to its output.

    A kept edge of a block is on a path if its row is in `dst` and its column in `src`.
    """

    dst: Mapping[str, Bool[Tensor, " dst"]]
    """By block: the rows from which the output can be reached."""

    src: Mapping[str, Bool[Tensor, " src"]]
    """By block: the columns that can be reached from the input."""

    edgeless_nodes: Bool[Tensor, " nodes"]
    """The nodes on a path that have no edges (`final_resid`); False at all others."""


def reach(graph: Graph, nodes: Bool[Tensor, " nodes"], kept: KeptEdges) -> Reach:
    """Which of the kept nodes and edges lie on a path over kept edges and links."""
    if isinstance(graph, ComponentGraph):
        return component_reach(graph, nodes, kept(EDGES))
    if isinstance(graph, ChannelGraph):
        return channel_reach(graph, nodes, kept)
    raise ValueError(
        f"paths are defined in component and channel graphs, got {type(graph).__name__}."
    )


@dataclass(frozen=True, eq=False)
class Acting:
    """Readers and writers that act on the logits at the answer position, over kept edges.

    The logits read the final residual stream at that position only. MLPs and queries whose outputs
    are only read at that position act from there only; keys and values act from every position.
    """

    readers: np.ndarray
    """bool [readers]"""

    writers: np.ndarray
    """bool [writers]"""

    readers_everywhere: np.ndarray
    """bool [readers]: those that also act from positions other than the answer's"""

    writers_everywhere: np.ndarray
    """bool [writers]: the same of writers"""

    @classmethod
    def of(cls, graph: ComponentGraph, kept: np.ndarray, *, coupled: bool = False) -> "Acting":
        """Walk backwards from the logits.

        Args:
            kept: edges, bool [readers, writers].
            coupled: the heads of a layer act on each other directly, so all of them act if one
                does.
        """
        readers, readers_everywhere = np.zeros((2, graph.n_readers), dtype=bool)
        writers, writers_everywhere = np.zeros((2, graph.n_writers), dtype=bool)
        readers[graph.logits_reader] = True

        def walk_to(columns: slice) -> tuple[np.ndarray, np.ndarray]:
            writers[columns] = kept[readers, columns].any(0)
            writers_everywhere[columns] = kept[readers_everywhere, columns].any(0)
            return writers[columns], writers_everywhere[columns]

        # All readers of a writer come after it, so their entries are final when it is visited.
        for sublayer in reversed(graph.sublayers):
            acts, acts_everywhere = walk_to(sublayer.writers)
            if sublayer.kind == "mlp":
                readers[sublayer.readers] = acts
                readers_everywhere[sublayer.readers] = acts_everywhere
                continue
            if coupled:
                acts = acts.any().repeat(len(acts))
                acts_everywhere = acts_everywhere.any().repeat(len(acts))
            for letter in LETTERS:
                rows = sublayer.readers_of(letter)
                readers[rows] = acts
                # A head's output at one position depends on keys and values at all before it.
                readers_everywhere[rows] = acts_everywhere if letter == "q" else acts
        walk_to(slice(0, graph.n_inputs))
        return cls(readers, writers, readers_everywhere, writers_everywhere)


def component_reach(
    graph: ComponentGraph, nodes: Bool[Tensor, " nodes"], kept: Bool[Tensor, "readers writers"]
) -> Reach:
    """What lies on a path over kept edges; a path can enter a head through its q, k or v."""
    reached = nodes[:-1].clone()  # [writers]: those that the input reaches; nodes end with logits
    reached[graph.n_inputs :] = False
    for sublayer in graph.sublayers:
        reads = (kept[sublayer.readers] & reached).any(1)  # [3 * heads], or [1] for an MLP
        n_writers = sublayer.writers.stop - sublayer.writers.start
        reached[sublayer.writers] = reads.view(-1, n_writers).any(0)  # over q, k and v of a head
    acting = torch.from_numpy(Acting.of(graph, kept.numpy()).readers)
    return Reach({EDGES: acting}, {EDGES: reached}, edgeless_nodes=torch.zeros_like(nodes))


def channel_reach(graph: ChannelGraph, nodes: Bool[Tensor, " nodes"], kept: KeptEdges) -> Reach:
    """What lies on a path over kept edges and links.

    Links lead

    - from the input to every channel of `attn_in` and `mlp_in` (positions included);
    - from a channel of `attn_out` or `mlp_out` to the same channel of every later `attn_in` and
      `mlp_in`, and of `final_resid`;
    - from q and k of a head to that head's edges from v to `attn_out`, through the pattern;
    - from `final_resid` to the output, or from `attn_out` and `mlp_out` to the output in a graph
      without `final_resid`.

    A channel of v without incoming path still carries a constant, so its outgoing edges are on a
    path if q or k of its head are.
    """
    by_site = graph.unflatten(nodes)
    src, written = _forwards(graph, by_site, kept)
    if graph.has_final_resid:
        final = by_site["final_resid"]
    else:
        final = torch.ones(graph.d_model, dtype=torch.bool)
    dst = _backwards(graph, kept, final)
    edgeless = torch.zeros_like(nodes)
    if graph.has_final_resid:
        edgeless[graph.node_slices["final_resid"]] = final & written
    return Reach(dst=dst, src=src, edgeless_nodes=edgeless)


def _forwards(
    graph: ChannelGraph, by_site: dict[str, Bool[Tensor, " width"]], kept: KeptEdges
) -> tuple[dict[str, Bool[Tensor, " src"]], Bool[Tensor, " d_model"]]:
    """By block, the sources that the input reaches; and the stream's channels written from them."""
    src: dict[str, Tensor] = {}
    written = torch.zeros(graph.d_model, dtype=torch.bool)

    def walk(block: ChannelBlock, reached: Bool[Tensor, " src"]) -> Bool[Tensor, " dst"]:
        src[block.name] = reached
        return (kept(block.name) & reached).any(1)

    for layer in range(graph.n_layers):
        attn_in = by_site[graph.site(layer, "attn_in").name]  # the input links to all of them
        q, k, v = (walk(graph.block(layer, "attn_in", letter), attn_in) for letter in "qkv")
        reaches_pattern = _any_of_head(graph, q | k)
        written = written | walk(graph.block(layer, "v", "attn_out"), v | reaches_pattern)
        if not graph.attn_only:
            mlp_in = by_site[graph.site(layer, "mlp_in").name]
            mlp_post = walk(graph.block(layer, "mlp_in", "mlp_post"), mlp_in)
            written = written | walk(graph.block(layer, "mlp_post", "mlp_out"), mlp_post)
    return src, written


def _backwards(
    graph: ChannelGraph, kept: KeptEdges, final: Bool[Tensor, " d_model"]
) -> dict[str, Bool[Tensor, " dst"]]:
    """By block, the destinations that reach the output."""
    dst: dict[str, Tensor] = {}
    read_later = final  # channels of the stream at the current point of the walk, [d_model]

    def walk(block: ChannelBlock, reaching: Bool[Tensor, " dst"]) -> Bool[Tensor, " src"]:
        dst[block.name] = reaching
        return (kept(block.name) & reaching[:, None]).any(0)

    for layer in reversed(range(graph.n_layers)):
        read_after_layer = read_later
        if not graph.attn_only:
            mlp_post = walk(graph.block(layer, "mlp_post", "mlp_out"), read_after_layer)
            mlp_in = walk(graph.block(layer, "mlp_in", "mlp_post"), mlp_post)
            read_later = read_later | mlp_in[: graph.d_model]  # without concatenated positions
        # In a parallel block the MLP does not read what attention writes.
        attn_out = read_after_layer if graph.parallel else read_later
        v = walk(graph.block(layer, "v", "attn_out"), attn_out)
        qk = _any_of_head(graph, v)  # q and k act on all values of their head
        for letter, reaching in (("q", qk), ("k", qk), ("v", v)):
            attn_in = walk(graph.block(layer, "attn_in", letter), reaching)
            read_later = read_later | attn_in[: graph.d_model]
    return dst


def _any_of_head(graph: ChannelGraph, channels: Bool[Tensor, " width"]) -> Bool[Tensor, " width"]:
    """All channels of the heads that have one of these channels of q, k or v."""
    heads = channels.view(graph.n_heads, graph.d_head).any(1)
    return heads.repeat_interleave(graph.d_head)
