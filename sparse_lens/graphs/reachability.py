"""What lies on a path from a model's input to its output: one walk forwards and one backwards."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from sparse_lens.graphs.base import Graph, KeptEdges
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import EDGES, ComponentGraph


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


def component_reach(
    graph: ComponentGraph, nodes: Bool[Tensor, " nodes"], kept: Bool[Tensor, "readers writers"]
) -> Reach:
    """Paths over kept edges; a head passes on whatever its q, k or v reads."""
    n_heads = graph.n_heads
    reached = nodes[:-1].clone()  # writers that the input reaches
    reached[graph.n_inputs :] = False
    for layer in range(graph.n_layers):
        read = (kept[graph.head_readers(layer)] & reached).any(1)  # [3 * heads]
        reached[graph.head_writers(layer)] = read.reshape(3, n_heads).any(0)
        reached[graph.mlp_writer(layer)] = (kept[graph.mlp_reader(layer)] & reached).any(1)

    needed = torch.zeros_like(nodes)  # nodes that reach the output: the writers and the logits
    needed[-1] = nodes[-1]
    owner = graph.ends[EDGES].dst
    rows = [graph.logits_reader]
    for layer in reversed(range(graph.n_layers)):
        rows += [graph.mlp_reader(layer), graph.head_readers(layer)]
    for row in rows:
        # Those that a row's node makes needed come before it, so its own state is final.
        needed[:-1] |= (kept[row] & needed[owner[row], None]).any(0)
    return Reach(
        dst={EDGES: needed[owner]},
        src={EDGES: reached},
        edgeless_nodes=torch.zeros_like(nodes),
    )


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

    def follow(block: str, reached: Tensor) -> Tensor:
        src[block] = reached
        return (kept(block) & reached).any(1)

    for layer in range(graph.n_layers):
        at = f"blocks.{layer}"
        read = at_site[f"{at}.attn_in"]
        q, k, v = (follow(f"{at}.attn_in->{at}.{letter}", read) for letter in "qkv")
        attends = (q | k).reshape(graph.n_heads, graph.d_head).any(1)
        v = v | attends.repeat_interleave(graph.d_head)
        written = written | follow(f"{at}.v->{at}.attn_out", v)
        if not graph.attn_only:
            post = follow(f"{at}.mlp_in->{at}.mlp_post", at_site[f"{at}.mlp_in"])
            written = written | follow(f"{at}.mlp_post->{at}.mlp_out", post)
    return src, written


def _backwards(
    graph: ChannelGraph,
    at_site: dict[str, Tensor],
    kept: KeptEdges,
    final: Bool[Tensor, " d_model"],
) -> dict[str, Tensor]:
    """By block, the destinations that reach the output."""
    dst: dict[str, Tensor] = {}
    wanted = final  # channels of the stream that somebody later reads

    def follow(block: str, needed: Tensor) -> Tensor:
        dst[block] = needed
        return (kept(block) & needed[:, None]).any(0)

    for layer in reversed(range(graph.n_layers)):
        at = f"blocks.{layer}"
        after_block = wanted
        if not graph.attn_only:
            post = follow(f"{at}.mlp_post->{at}.mlp_out", after_block)
            wanted = wanted | follow(f"{at}.mlp_in->{at}.mlp_post", post)[: graph.d_model]
        v = follow(f"{at}.v->{at}.attn_out", after_block if graph.parallel else wanted)
        heads = v.reshape(graph.n_heads, graph.d_head).any(1).repeat_interleave(graph.d_head)
        for letter, needed in (("q", heads), ("k", heads), ("v", v)):
            wanted = wanted | follow(f"{at}.attn_in->{at}.{letter}", needed)[: graph.d_model]
    return dst
