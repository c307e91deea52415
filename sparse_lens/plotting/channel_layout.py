"""Layout of channel circuits: residual channels as rails, and what reads and writes them.

Every channel of the residual stream that the circuit reads or writes has a row of its own through
the whole drawing, so that links along the stream are level lines, and a reader's sources are what
stands to its left in its row. Channels of q, k, v and the neurons stand between the rails.

Nodes go by their number, which is their index in `Network.nodes`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from sparse_lens.plotting.layout import (
    Band,
    Box,
    Layout,
    Link,
    Point,
    Spacing,
    layer_columns,
    spread,
)
from sparse_lens.plotting.network import Edge, Network
from sparse_lens.plotting.sites import STREAM_KINDS, STREAM_WRITES, kind_of, sites_by_layer

EMBEDDING, LOGITS = "embedding", "logits"

_PARALLEL = ("attn_in", "mlp_in", "q", "k", "v", "mlp_post", "attn_out", "mlp_out")
"""Columns of a block whose MLP does not read its attention: reads, then writes."""

_SPACING = Spacing(start=0.3, to_band=0.2, to_column=0.65, after=0.45)
_SWEEPS = 12

IDLE = 0.4
"""Rows that a channel takes which no edge reads or writes."""

Groups = dict[str, dict[int, list[int]]]
"""Nodes that are not on rails, by sublayer (`0.attn`, `0.mlp`) and head (0 for neurons)."""


def channel_layout(network: Network) -> Layout:
    """The layout of a circuit of a channel graph."""
    columns, bands, width = _columns(network)
    groups = _groups(network)
    rails, idle = _ordered_rails(network, groups)
    # From the top: the rails, spread over the rows that the largest group needs; the idle ones.
    rails_height = max([len(rails), 4, *(_rows_needed(heads) for heads in groups.values())])
    idle_height = IDLE * len(idle) + (0.5 if idle else 0.0)
    height = rails_height + idle_height
    pitch = rails_height / max(len(rails), 1)
    rail_rows = {channel: height - (i + 0.5) * pitch for i, channel in enumerate(rails)}
    rail_rows.update((channel, IDLE * (len(idle) - i - 0.5)) for i, channel in enumerate(idle))
    node_rows = {
        number: rail_rows[node.index]
        for number, node in enumerate(network.nodes)
        if kind_of(node.site) in STREAM_KINDS
    }
    preferred_row = _preferred_row(network, dict(node_rows), idle_height + rails_height / 2)
    boxes: list[Box] = []
    for heads in groups.values():
        group_rows = _group_rows(network, heads, preferred_row, idle_height, height)
        node_rows.update(group_rows)
        boxes += _boxes(network, heads, group_rows, columns)
    positions = tuple((columns[node.site], node_rows[i]) for i, node in enumerate(network.nodes))
    return Layout(
        positions=positions,
        routes=tuple((positions[edge.source], positions[edge.target]) for edge in network.edges),
        width=width,
        height=height,
        bands=bands,
        headings=tuple((x, kind_of(site)) for site, x in columns.items()),
        ends=((EMBEDDING, 0.0), (LOGITS, width)),
        links=(*_stream_links(network, positions, width), *_pattern_links(network, positions)),
        boxes=tuple(boxes),
        rails=tuple((row, _rail_name(channel, network)) for channel, row in rail_rows.items()),
    )


def _columns(network: Network) -> tuple[dict[str, float], tuple[Band, ...], float]:
    """By site with nodes its column; the layers; and the column of the output."""
    sites = sites_by_layer(network)
    if network.parallel:
        for layer_sites in sites:
            layer_sites.sort(key=lambda site: _PARALLEL.index(kind_of(site)))
    columns, bands, x = layer_columns(sites, _SPACING, _step)
    if any(node.site == "final_resid" for node in network.nodes):
        columns["final_resid"] = x = x + 0.7
    return columns, bands, x + 0.7


def _step(previous: str, site: str) -> float:
    previous_kind, kind = kind_of(previous), kind_of(site)
    if previous_kind in "qkv" and kind in "qkv":
        return 0.55
    return 0.8 if kind == "mlp_in" else 1.0


def _groups(network: Network) -> Groups:
    """The nodes that are not on rails: of each layer the heads, and the neurons."""
    groups: Groups = defaultdict(lambda: defaultdict(list))
    for number, node in enumerate(network.nodes):
        kind = kind_of(node.site)
        if kind in STREAM_KINDS:
            continue
        head = node.index // network.d_head if kind in "qkv" else 0
        groups[f"{node.layer}.{'mlp' if kind == 'mlp_post' else 'attn'}"][head].append(number)
    return groups


def _rows_needed(heads: dict[int, list[int]]) -> int:
    """Rows that a column of heads needs: one a channel, and two between heads."""
    return sum(map(len, heads.values())) + 2 * (len(heads) - 1) + 1


def _both_ways(edges: Sequence[Edge]) -> Iterator[tuple[int, int]]:
    """Each node with each of its neighbours: every edge once from either end."""
    for edge in edges:
        yield edge.source, edge.target
        yield edge.target, edge.source


def _ordered_rails(network: Network, groups: Groups) -> tuple[list[int], list[int]]:
    """The channels of the stream from top to bottom; first those with edges, then the idle ones.

    The order is the one of the barycentre method (Sugiyama, Tagawa and Toda, "Methods for visual
    understanding of hierarchical system structures", 1981), which makes edges cross little: in
    each sweep a bundle of nodes goes to the mean rank of its rails, then the rails are sorted by
    the mean of their bundles. Channels of the position embedding stay at the bottom.
    """
    channel_of = {
        number: node.index
        for number, node in enumerate(network.nodes)
        if kind_of(node.site) in STREAM_KINDS
    }
    # A bundle is a head with its channels of q, k and v, or a single neuron.
    bundle_of: dict[int, tuple[str, int]] = {}
    for sublayer, heads in groups.items():
        for head, numbers in heads.items():
            for i, number in enumerate(numbers):
                bundle_of[number] = (sublayer, i if sublayer.endswith("mlp") else -1 - head)
    # By bundle the channels that its edges read or write.
    bundles: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, neighbour in _both_ways(network.edges):
        if number in bundle_of and neighbour in channel_of:
            bundles[bundle_of[number]].append(channel_of[neighbour])
    with_edges = {channel for channels in bundles.values() for channel in channels}
    rails, idle = sorted(with_edges), sorted(set(channel_of.values()) - with_edges)
    for _ in range(_SWEEPS):
        rank = {channel: float(i) for i, channel in enumerate(rails)}
        bundle_ranks: dict[int, list[float]] = defaultdict(list)
        for channels in bundles.values():
            mean_rank = fmean(rank[channel] for channel in channels)
            for channel in channels:
                bundle_ranks[channel].append(mean_rank)
        barycentre = {channel: fmean(bundle_ranks[channel]) for channel in rails}
        rails.sort(key=lambda channel: (channel >= network.d_model, barycentre[channel], channel))
    return rails, idle


def _preferred_row(
    network: Network, rows: dict[int, float], default: float
) -> Callable[[int], float]:
    """By node the mean row of the rails that its edges lead to."""
    neighbour_rows: dict[int, list[float]] = defaultdict(list)
    for number, neighbour in _both_ways(network.edges):
        if neighbour in rows:
            neighbour_rows[number].append(rows[neighbour])
    return lambda number: fmean(neighbour_rows[number] or [default])


def _group_rows(
    network: Network,
    heads: dict[int, list[int]],
    preferred_row: Callable[[int], float],
    low: float,
    high: float,
) -> dict[int, float]:
    """Rows of one column of heads (or of neurons): head after head, in it q, then k, then v."""
    centres = {head: fmean(map(preferred_row, numbers)) for head, numbers in heads.items()}
    # From the bottom to the top: a node, or None for a row of the space between two heads.
    slots: list[int | None] = []
    wanted: list[float] = []
    for head in sorted(heads, key=lambda head: (centres[head], -head)):
        numbers = sorted(
            heads[head],
            key=lambda i: (-"qkv".find(kind_of(network.nodes[i].site)), preferred_row(i), -i),
        )
        if slots:
            slots += [None, None]
            wanted += [wanted[-1]] * 2
        slots += numbers
        if len(heads) == 1 and kind_of(network.nodes[numbers[0]].site) == "mlp_post":
            wanted += map(preferred_row, numbers)  # neurons stand wherever their rails are
        else:
            lowest = centres[head] - (len(numbers) - 1) / 2
            wanted += [lowest + i for i in range(len(numbers))]
    rows = spread(wanted, 1.0, low + 0.5, high - 0.5)
    return {number: row for number, row in zip(slots, rows, strict=True) if number is not None}


def _boxes(
    network: Network,
    heads: dict[int, list[int]],
    node_rows: dict[int, float],
    columns: dict[str, float],
) -> Iterator[Box]:
    """A frame around each head; neurons have none."""
    for head, numbers in heads.items():
        if kind_of(network.nodes[numbers[0]].site) not in "qkv":
            continue
        xs = [columns[network.nodes[number].site] for number in numbers]
        ys = [node_rows[number] for number in numbers]
        low, high = (min(xs) - 0.25, min(ys) - 0.75), (max(xs) + 0.25, max(ys) + 0.75)
        yield Box(f"h{head}", low, high)


def _stream_links(network: Network, positions: tuple[Point, ...], width: float) -> Iterator[Link]:
    """Along each rail: from the embedding to the first write, and on to the last read."""
    reads, writes = defaultdict(list), defaultdict(list)
    final = "final_resid" if "final_resid" in network.sites else None
    for (x, y), node in zip(positions, network.nodes, strict=True):
        kind = kind_of(node.site)
        if kind in STREAM_KINDS:
            (writes if kind in STREAM_WRITES else reads)[node.index, y].append((x, kind))
    for rail in sorted({*reads, *writes}):
        y = rail[1]
        read_at, written_at = [x for x, _ in reads[rail]], [x for x, _ in writes[rail]]
        first_write, last_read = min(written_at, default=width), max(read_at, default=0.0)
        # The output reads what `final_resid` keeps, or, in a graph without it, all that is written.
        if (final is None and written_at) or any(kind == final for _, kind in reads[rail]):
            last_read = width
        before_final = [x for x, kind in reads[rail] if kind != final]
        if before_final:
            yield Link("stream", (0.0, y), (min(first_write, max(before_final)), y))
        if last_read > first_write:
            yield Link("written", (first_write, y), (last_read, y))
        elif last_read == width and not written_at:
            yield Link("stream", (max(read_at), y), (width, y))


def _pattern_links(network: Network, positions: tuple[Point, ...]) -> Iterator[Link]:
    """From q and k of a head to its v, whose edges the attention pattern weighs."""
    # Nodes by layer, head, and `q`, `k` or `v`.
    channels: dict[tuple[int | None, int, str], list[int]] = defaultdict(list)
    sources = {edge.source for edge in network.edges}
    for number, node in enumerate(network.nodes):
        kind = kind_of(node.site)
        if kind in "qk" or (kind == "v" and number in sources):
            channels[node.layer, node.index // network.d_head, kind].append(number)
    for (layer, head, kind), numbers in channels.items():
        if kind == "v":
            continue
        for number in numbers:
            for value in channels.get((layer, head, "v"), []):
                yield Link("pattern", positions[number], positions[value])


def _rail_name(channel: int, network: Network) -> str:
    return str(channel) if channel < network.d_model else f"pos {channel - network.d_model}"
