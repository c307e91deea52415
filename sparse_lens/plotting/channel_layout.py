"""Layout of channel circuits: residual channels as rails, and what reads and writes them.

Every channel of the residual stream that the circuit reads or writes has a row of its own through
the whole drawing, so that links along the stream are level lines, and a reader's sources are what
stands to its left in its row. Channels of q, k, v and the neurons stand between the rails.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import fmean

from sparse_lens.plotting.layout import EMPTY_BAND, Band, Box, Layout, Link, Point, bands_of, spread
from sparse_lens.plotting.network import Network

EMBEDDING, LOGITS = "embedding", "logits"
STREAM = ("attn_in", "attn_out", "mlp_in", "mlp_out", "final_resid")
"""Sites whose nodes are channels of the residual stream."""

_PARALLEL = ("attn_in", "mlp_in", "q", "k", "v", "mlp_post", "attn_out", "mlp_out")
"""Columns of a block whose MLP does not read its attention: reads, then writes."""

_SWEEPS = 12
_MARGIN = 0.45
IDLE = 0.4
"""Rows that a channel takes which no edge reads or writes."""


Groups = dict[str, dict[int, list[int]]]
"""By site of the first of them, and head (neurons: 0): nodes that are not on rails."""


def kind_of(site: str) -> str:
    """The site's name without its layer."""
    return site.rpartition(".")[2]


def channel_layout(network: Network) -> Layout:
    """Places for a circuit of a channel graph."""
    columns, bands, width = _columns(network)
    groups = _groups(network)
    rails, idle = _ordered_rails(network, groups)
    needed = max([len(rails), 4, *(_rows_of(heads) for heads in groups.values())])
    floor = IDLE * len(idle) + (0.5 if idle else 0.0)
    height = needed + floor
    pitch = needed / max(len(rails), 1)
    rows = {channel: height - (i + 0.5) * pitch for i, channel in enumerate(rails)}
    rows.update((channel, IDLE * (len(idle) - i - 0.5)) for i, channel in enumerate(idle))
    places = {i: rows[n.index] for i, n in enumerate(network.nodes) if kind_of(n.site) in STREAM}
    wanted = _wanted(network, dict(places), floor + needed / 2)
    boxes: list[Box] = []
    for members in groups.values():
        found = _stack(network, members, wanted, floor, height)
        places.update(found)
        boxes += _boxes(network, members, found, columns)
    positions = tuple((columns[node.site], places[i]) for i, node in enumerate(network.nodes))
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
        rails=tuple((rows[channel], _rail_name(channel, network)) for channel in rows),
    )


def _columns(network: Network) -> tuple[dict[str, float], tuple[Band, ...], float]:
    """By site with nodes its column; the layers; and the column of the output."""
    used = {node.site for node in network.nodes}
    columns: dict[str, float] = {}
    spans: list[tuple[float, float] | None] = []
    x = 0.3
    for layer in range(network.n_layers):
        here = [s for s in network.sites if s.startswith(f"blocks.{layer}.") and s in used]
        if network.parallel:
            here.sort(key=lambda site: _PARALLEL.index(kind_of(site)))
        if not here:
            spans.append(None)
            continue
        if spans and spans[-1] is None:
            x += EMPTY_BAND
        start, x = x + 0.2, x + 0.2 + _MARGIN
        columns[here[0]] = x
        for previous, site in pairwise(here):
            x += _step(kind_of(previous), kind_of(site))
            columns[site] = x
        x += _MARGIN
        spans.append((start, x))
    if spans and spans[-1] is None:
        x += EMPTY_BAND
    bands = bands_of(spans, x)
    if "final_resid" in used:
        columns["final_resid"] = x = x + 0.7
    return columns, bands, x + 0.7


def _step(previous: str, site: str) -> float:
    if previous in "qkv" and site in "qkv":
        return 0.55
    return 0.8 if site == "mlp_in" else 1.0


def _groups(network: Network) -> Groups:
    """Nodes that are not on rails: of each layer the heads, and the neurons."""
    groups: Groups = defaultdict(lambda: defaultdict(list))
    for number, node in enumerate(network.nodes):
        kind = kind_of(node.site)
        if kind in STREAM:
            continue
        head = node.index // network.d_head if kind in "qkv" else 0
        groups[f"{node.layer}.{'mlp' if kind == 'mlp_post' else 'attn'}"][head].append(number)
    return groups


def _rows_of(heads: dict[int, list[int]]) -> int:
    """Rows that a column of heads needs: one a channel, and two between heads."""
    return sum(map(len, heads.values())) + 2 * (len(heads) - 1) + 1


def _ordered_rails(network: Network, groups: Groups) -> tuple[list[int], list[int]]:
    """The stream's channels from top to bottom, ordered so that edges cross little; and idle ones.

    Barycentre sweeps: a group goes to the mean of its rails, a rail to the mean of its groups.
    Position channels stay at the bottom. Channels that no edge reads or writes are idle.
    """
    on_rail = {
        i: node.index for i, node in enumerate(network.nodes) if kind_of(node.site) in STREAM
    }
    group_of: dict[int, tuple[str, int]] = {}
    for name, heads in groups.items():
        for head, members in heads.items():
            for i, number in enumerate(members):
                # Neurons move one by one, the channels of a head together.
                group_of[number] = (name, i if name.endswith("mlp") else -1 - head)
    touching: dict[tuple[str, int], list[int]] = defaultdict(list)
    for edge in network.edges:
        for end, other in ((edge.source, edge.target), (edge.target, edge.source)):
            if end in group_of and other in on_rail:
                touching[group_of[end]].append(on_rail[other])
    used = {channel for channels in touching.values() for channel in channels}
    rails, idle = sorted(used), sorted(set(on_rail.values()) - used)
    for _ in range(_SWEEPS):
        rank = {channel: float(i) for i, channel in enumerate(rails)}
        pulls: dict[int, list[float]] = defaultdict(list)
        for channels in touching.values():
            centre = fmean(rank[channel] for channel in channels)
            for channel in channels:
                pulls[channel].append(centre)
        centres = {channel: fmean(pulls[channel]) for channel in rails}
        rails.sort(key=lambda channel: (channel >= network.d_model, centres[channel], channel))
    return rails, idle


def _wanted(network: Network, rows: dict[int, float], default: float) -> Callable[[int], float]:
    """Where a node would like to stand: the mean of the rails that it is joined to."""
    joined: dict[int, list[float]] = defaultdict(list)
    for edge in network.edges:
        for end, other in ((edge.source, edge.target), (edge.target, edge.source)):
            if other in rows:
                joined[end].append(rows[other])
    return lambda number: fmean(joined[number]) if joined[number] else default


def _stack(
    network: Network,
    heads: dict[int, list[int]],
    wanted: Callable[[int], float],
    low: float,
    high: float,
) -> dict[int, float]:
    """Rows of one column of heads (or of neurons): head after head, in it q, then k, then v."""
    centres = {head: fmean(map(wanted, members)) for head, members in heads.items()}
    order: list[int | None] = []
    places: list[float] = []
    # From the bottom to the top; None is the room between two heads.
    for head in sorted(heads, key=lambda head: (centres[head], -head)):
        members = sorted(
            heads[head],
            key=lambda i: (-"qkv".find(kind_of(network.nodes[i].site)), wanted(i), -i),
        )
        if order:
            order += [None, None]
            places += [places[-1]] * 2
        order += members
        if len(heads) == 1 and kind_of(network.nodes[members[0]].site) == "mlp_post":
            places += map(wanted, members)
        else:
            first = centres[head] - (len(members) - 1) / 2
            places += [first + i for i in range(len(members))]
    rows = spread(places, 1.0, low + 0.5, high - 0.5)
    return {number: row for number, row in zip(order, rows, strict=True) if number is not None}


def _boxes(
    network: Network,
    heads: dict[int, list[int]],
    places: dict[int, float],
    columns: dict[str, float],
) -> Iterator[Box]:
    for head, members in heads.items():
        kinds = [kind_of(network.nodes[i].site) for i in members]
        if kinds[0] not in "qkv":
            continue
        at = [columns[network.nodes[i].site] for i in members]
        rows = [places[i] for i in members]
        low, high = (min(at) - 0.25, min(rows) - 0.75), (max(at) + 0.25, max(rows) + 0.75)
        yield Box(f"h{head}", low, high)


def _stream_links(network: Network, positions: tuple[Point, ...], width: float) -> Iterator[Link]:
    """Along each rail: from the embedding to the first write, and on to the last read."""
    reads, writes = defaultdict(list), defaultdict(list)
    final = "final_resid" if "final_resid" in network.sites else None
    for (x, y), node in zip(positions, network.nodes, strict=True):
        kind = kind_of(node.site)
        if kind in STREAM:
            (writes if kind.endswith("out") else reads)[node.index, y].append((x, kind))
    for channel, y in sorted({*reads, *writes}):
        read, written = reads[channel, y], [x for x, _ in writes[channel, y]]
        first = min(written, default=width)
        last = max([x for x, _ in read], default=0.0)
        if (final is None and written) or any(kind == final for _, kind in read):
            last = width
        from_input = [x for x, kind in read if kind != final]
        if from_input:
            yield Link("stream", (0.0, y), (min(first, max(from_input)), y))
        if last > first:
            yield Link("written", (first, y), (last, y))
        elif last == width and not written:
            yield Link("stream", (max(x for x, _ in read), y), (width, y))


def _pattern_links(network: Network, positions: tuple[Point, ...]) -> Iterator[Link]:
    """From q and k of a head to its v, whose edges the attention pattern carries."""
    by_head: dict[tuple[int | None, int, str], list[int]] = defaultdict(list)
    senders = {edge.source for edge in network.edges}
    for number, node in enumerate(network.nodes):
        kind = kind_of(node.site)
        if kind in "qk" or (kind == "v" and number in senders):
            by_head[node.layer, node.index // network.d_head, kind].append(number)
    for (layer, head, kind), members in by_head.items():
        if kind == "v":
            continue
        for number in members:
            for value in by_head.get((layer, head, "v"), []):
                yield Link("pattern", positions[number], positions[value])


def _rail_name(channel: int, network: Network) -> str:
    return str(channel) if channel < network.d_model else f"pos {channel - network.d_model}"
