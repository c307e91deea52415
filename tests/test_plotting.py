"""Figures of circuits: every node and edge once, signs from the weights, places in order."""

from collections import Counter
from html import unescape
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.plotting import Network, circuit_figure
from sparse_lens.plotting.drawing import network_spec
from sparse_lens.plotting.theme import NEGATIVE, NEUTRAL, POSITIVE
from sparse_lens.scores import Scores
from tests.graphs.tiny import (
    CHANNEL,
    COMPONENT,
    GRAPHS,
    config,
    random_edge_circuit,
    random_node_circuit,
    sparse_model,
)

every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
every_kind = pytest.mark.parametrize("make", [random_edge_circuit, random_node_circuit])
channel_graphs = pytest.mark.parametrize(
    "graph", [g for g in GRAPHS.values() if isinstance(g, ChannelGraph)]
)


def traces(figure: Any, role: str) -> list[Any]:
    return [trace for trace in figure.data if (trace.meta or {}).get("role") == role]


def title_of(hover: str) -> str:
    return unescape(hover.split("<br>")[0]).removeprefix("<b>").removesuffix("</b>")


def nodes_of(figure: Any) -> dict[str, tuple[float, float]]:
    """Name and place of every mark of a node; fails on a node that is drawn twice."""
    found: dict[str, tuple[float, float]] = {}
    for trace in traces(figure, "nodes"):
        for hover, x, y in zip(trace.hovertext, trace.x, trace.y, strict=True):
            assert title_of(hover) not in found
            found[title_of(hover)] = (x, y)
    return found


def lines(trace: Any) -> list[list[tuple[float, float]]]:
    """The separate lines of a trace with gaps."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(trace.x, trace.y, strict=True):
        if x is None:
            found.append([])
        else:
            found[-1].append((x, y))
    assert found.pop() == []
    return found


def edges_of(figure: Any) -> dict[str, tuple[str, list[tuple[float, float]]]]:
    """Name, colour and line of every edge; fails on an edge that is drawn twice."""
    if not traces(figure, "edge points"):
        return {}
    (points,) = traces(figure, "edge points")
    names = [title_of(text).replace(" → ", "->") for text in points.text]
    found: dict[str, tuple[str, list[tuple[float, float]]]] = {}
    for trace in traces(figure, "edges"):
        for number, line in zip(trace.meta["edges"], lines(trace), strict=True):
            assert names[number] not in found
            found[names[number]] = (trace.line.color, line)
    return found


@every_graph
@every_kind
def test_every_node_and_edge_is_drawn_once(graph, make):
    for seed, share in enumerate((0.3, 0.7)):
        circuit = make(graph, share, seed=seed)
        figure: Any = circuit_figure(circuit)
        assert sorted(nodes_of(figure)) == sorted(circuit.node_names())
        assert sorted(edges_of(figure)) == sorted(circuit.edge_names())


@every_graph
@every_kind
def test_edges_join_their_nodes_from_left_to_right(graph, make):
    figure: Any = circuit_figure(make(graph, 0.5, seed=3))
    places = nodes_of(figure)
    for name, (_, line) in edges_of(figure).items():
        source, destination = name.split("->")
        target, _, port = destination.partition("<")
        assert line[0] == places[source]
        assert line[-1] == places[target] if not port else line[-1][0] < places[target][0]
        assert all(x0 < x1 for (x0, _), (x1, _) in pairwise(line))


@every_graph
def test_no_two_nodes_or_labels_overlap(graph):
    """In pixels, as far apart as their marks are wide and their labels are high."""
    figure: Any = circuit_figure(random_node_circuit(graph, 0.7, seed=4))
    layout = figure.layout
    margins = layout.margin.t + layout.margin.b
    row = (layout.height - margins) / (layout.yaxis.range[1] - layout.yaxis.range[0])
    column = layout.meta["min_width"] / layout.xaxis.range[1]
    marks = [
        (x * column, y * row, trace.marker.size)
        for trace in traces(figure, "nodes")
        for x, y in zip(trace.x, trace.y, strict=True)
    ]
    for (x0, y0, a), (x1, y1, b) in combinations(marks, 2):
        assert max(abs(x0 - x1), abs(y0 - y1)) >= (a + b) / 2
    labelled = [
        (x, y * row)
        for trace in traces(figure, "nodes")
        for x, y, text in zip(trace.x, trace.y, trace.text, strict=True)
        if text
    ]
    for (x0, y0), (x1, y1) in combinations(labelled, 2):
        assert x0 != x1 or abs(y0 - y1) >= 10.5
    ticks = sorted(y * row for y in layout.yaxis.tickvals or ())
    assert all(b - a >= 10.5 for a, b in pairwise(ticks))


@every_graph
def test_columns_follow_the_layers(graph):
    figure: Any = circuit_figure(Circuit.full(graph))
    places = nodes_of(figure)
    by_site: dict[str, set[float]] = {}
    for name, (x, _) in places.items():
        by_site.setdefault(graph.parse_node(name)[0], set()).add(x)
    assert all(len(columns) == 1 for columns in by_site.values())
    column = {site: by_site[site].pop() for site in graph.sites}
    by_layer: dict[int, list[float]] = {}
    for site, x in column.items():
        layer = graph.sites[site].layer
        if layer is not None:
            by_layer.setdefault(layer, []).append(x)
    for layer in range(graph.n_layers - 1):
        assert max(by_layer[layer]) < min(by_layer[layer + 1])
    if not graph.parallel:
        assert list(column.values()) == sorted(column.values())
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert {f"<b>layer {layer}</b>" for layer in range(graph.n_layers)} <= set(titles)


def test_labels_of_heads_lie_above_all_edges():
    spec = network_spec(Network.of(Circuit.full(CHANNEL)))
    roles = [(trace.get("meta") or {}).get("role") for trace in spec["data"]]
    assert roles[-1] == "box labels"
    assert set(spec["data"][-1]["text"]) == {f"h{head}" for head in range(2)}


@torch.no_grad()
def test_signs_and_widths_are_those_of_the_weights():
    model = sparse_model()
    graph = ChannelGraph.from_model(model)
    figure: Any = circuit_figure(Circuit.full(graph), model)
    block = model.blocks[1]
    checked = 0
    for name, (colour, _) in edges_of(figure).items():
        source, destination = name.split("->")
        (site, src), (read, dst) = graph.parse_node(source), graph.parse_node(destination)
        if site == "blocks.1.mlp_in":
            weight = float(block.mlp.W_in[src, dst])
        elif read == "blocks.1.q":
            weight = float(block.attn.W_Q[dst // 3, src, dst % 3])
        elif site == "blocks.1.v":
            weight = float(block.attn.W_O[src // 3, src % 3, dst])
        else:
            continue
        assert colour in (POSITIVE if weight > 0 else NEGATIVE, NEUTRAL)
        checked += colour != NEUTRAL
    assert checked > 10
    (points,) = traces(figure, "edge points")
    for text in points.text:
        source, target = title_of(text).split(" → ")
        if source.startswith("blocks.1.mlp_in:"):
            src, dst = (int(name.rpartition(":")[2]) for name in (source, target))
            weight = f"{float(block.mlp.W_in[src, dst]):+.3g}"
            assert f"weight {weight}".replace("-", "\N{MINUS SIGN}") in text
    widths = {trace.line.width for trace in traces(figure, "edges")}
    assert len(widths) > 2


def test_component_edges_have_the_signs_of_their_scores():
    values = torch.randn(
        COMPONENT.block_shapes["edges"], generator=torch.Generator().manual_seed(0)
    )
    scores = Scores(COMPONENT, edges={"edges": values})
    named = scores.by_name()
    circuit = scores.top(n_edges=20)
    figure: Any = circuit_figure(circuit, scores=scores)
    connected = set(circuit.connected().edge_names())
    for name, (colour, _) in edges_of(figure).items():
        expected = POSITIVE if named[name] >= 0 else NEGATIVE
        assert colour == (expected if name in connected else NEUTRAL)


@channel_graphs
@every_kind
def test_links_along_the_stream_are_level_and_complete(graph, make):
    """Every stream link of the definition lies under the lines drawn, and its ends in one row."""
    circuit = make(graph, 0.6, seed=5)
    figure: Any = circuit_figure(circuit)
    places = nodes_of(figure)
    ends = {trace.name: trace.x[0] for trace in traces(figure, "end")}
    drawn: dict[float, list[tuple[float, float]]] = {}
    for trace in traces(figure, "links"):
        if trace.meta["kind"] != "pattern":
            for (x0, y0), (x1, y1) in lines(trace):
                assert y0 == y1
                drawn.setdefault(y0, []).append((x0, x1))
    reads = ("attn_in", "mlp_in", "final_resid")
    for source, target, kind in circuit.to_networkx(links=True).edges(data="kind"):
        site = target.rpartition(":")[0].rpartition(".")[2]
        if kind == "edge" or not (site in reads or target == "logits"):
            continue
        row = places[target if source == "embedding" else source][1]
        if source != "embedding" and target != "logits":
            assert row == places[target][1]
        start = ends["embedding"] if source == "embedding" else places[source][0]
        stop = ends["logits"] if target == "logits" else places[target][0]
        assert covers(sorted(drawn[row]), start, stop), (source, target)


def covers(segments: list[tuple[float, float]], start: float, stop: float) -> bool:
    at = start
    for x0, x1 in segments:
        if x0 <= at <= x1:
            at = max(at, x1)
    return at >= stop


@channel_graphs
def test_queries_and_keys_are_linked_to_values_of_their_head(graph):
    figure: Any = circuit_figure(Circuit.full(graph))
    names = {place: name for name, place in nodes_of(figure).items()}
    pairs = Counter()
    for trace in traces(figure, "links"):
        if trace.meta["kind"] == "pattern":
            for start, stop in lines(trace):
                (site, one), (values, two) = map(graph.parse_node, (names[start], names[stop]))
                assert values == f"{site[:-1]}v"
                assert one // graph.d_head == two // graph.d_head
                pairs[site] += 1
    assert set(pairs) == {f"blocks.{i}.{letter}" for i in range(graph.n_layers) for letter in "qk"}


@every_graph
@every_kind
def test_what_is_on_no_path_is_grey(graph, make):
    circuit = make(graph, 0.3, seed=6)
    connected = circuit.connected()
    figure: Any = circuit_figure(circuit)
    on_path = {
        title_of(hover): trace.name != "not on a path"
        for trace in traces(figure, "nodes")
        for hover in trace.hovertext
    }
    assert {name for name, kept in on_path.items() if kept} == set(connected.node_names())
    edges = {
        title_of(text).replace(" → ", "->"): "not on a path" not in text
        for points in traces(figure, "edge points")
        for text in points.text
    }
    assert {name for name, kept in edges.items() if kept} == set(connected.edge_names())


def test_lines_keep_clear_of_nodes_that_they_pass():
    graph = ComponentGraph.from_config(config(5, 4, 8))
    figure: Any = circuit_figure(random_edge_circuit(graph, 0.2, seed=7))
    places = nodes_of(figure)
    for name, (_, line) in edges_of(figure).items():
        own = set(name.split("<")[0].split("->"))
        for node, (x, y) in places.items():
            for (x0, y0), (x1, y1) in pairwise(line):
                if node not in own and x0 < x <= x1 and line[0][0] < x < line[-1][0]:
                    passed = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
                    assert abs(passed - y) > 0.4, (name, node)


def test_layers_that_keep_nothing_are_named():
    graph = ComponentGraph.from_config(config(7))
    circuit = Circuit.from_edge_names(graph, ["input->m1", "m1->m5", "m5->logits"])
    figure: Any = circuit_figure(circuit)
    texts = [a.text for a in figure.layout.annotations]
    bands = [text for text in texts if "layer" in text]
    named = ("layer 0", "layer 1", "layers 2 to 4", "layer 5", "layer 6")
    assert bands == [f"<b>{name}</b>" for name in named]
    assert texts.count("nothing kept") == 3


@every_graph
def test_an_empty_circuit_says_so(graph):
    figure: Any = circuit_figure(Circuit.empty(graph))
    assert any("keeps no node" in a.text for a in figure.layout.annotations)


def test_only_the_strongest_of_many_edges_are_drawn_and_it_says_so():
    model = sparse_model()
    graph = ChannelGraph.from_model(model)
    weights = Scores(graph, edges=graph.edge_weights(model))
    figure: Any = circuit_figure(Circuit.full(graph), model, max_edges=15)
    assert sorted(edges_of(figure)) == sorted(weights.top(n_edges=15).edge_names())
    said = f"the strongest 15 of {graph.n_edges} edges are drawn"
    (note,) = (a for a in figure.layout.annotations if a.text == said)
    assert (note.x, note.xanchor) == (0, "left")  # the tools would cover it on the right
    assert len(nodes_of(figure)) == graph.n_nodes


@pytest.mark.parametrize("weakest", [0.0, 0.25])
def test_the_strongest_are_drawn_also_after_many_that_tie(weakest):
    graph = ChannelGraph.from_model(sparse_model())
    block, support = list(graph.edge_support.items())[-1]
    masks = {name: torch.full(mask.shape, weakest) for name, mask in graph.edge_support.items()}
    row, column = support.nonzero()[-1].tolist()
    masks[block][row, column] = -2.0
    scores = Scores(graph, edges=masks)
    drawn = Network.of(Circuit.full(graph), scores=scores, max_edges=3).edges
    assert [edge.score for edge in drawn] == [weakest, weakest, -2.0]


def test_edges_of_unknown_strength_are_not_called_the_strongest():
    figure: Any = circuit_figure(Circuit.full(COMPONENT), max_edges=7)
    assert sorted(edges_of(figure)) == sorted(list(COMPONENT.edge_names())[:7])
    said = f"only 7 of {COMPONENT.n_edges} edges are drawn"
    assert said in [annotation.text for annotation in figure.layout.annotations]


def test_hovering_shows_degrees_and_scores():
    model = sparse_model()
    graph = ChannelGraph.from_model(model)
    scores = Scores(graph, nodes=graph.unflatten(torch.arange(graph.n_nodes) - 30.0))
    circuit = Circuit.full(graph)
    network = circuit.to_networkx()
    named = scores.by_name()
    for trace in traces(circuit_figure(circuit, model, scores=scores), "nodes"):
        for hover in trace.hovertext:
            name = title_of(hover)
            degrees = f"{network.in_degree(name)} edges in, {network.out_degree(name)} out"
            assert degrees in hover
            value = f"{named[name]:+.3g}".replace("-", "\N{MINUS SIGN}")
            assert f"score {value}" in hover
            assert f"site {graph.parse_node(name)[0]}" in hover


def test_a_score_of_infinity_is_left_out():
    values = torch.full((COMPONENT.n_nodes,), float("inf"))
    scores = Scores(COMPONENT, nodes=COMPONENT.unflatten(values))
    network = Network.of(Circuit.full(COMPONENT), scores=scores)
    assert {node.score for node in network.nodes} == {None}


def test_scores_of_another_graph_are_refused():
    other = GRAPHS["channel"]
    scores = Scores(other, nodes=other.unflatten(torch.zeros(other.n_nodes)))
    with pytest.raises(ValueError, match="another graph"):
        circuit_figure(Circuit.full(COMPONENT), scores=scores)
    with pytest.raises(ValueError, match="another model"):
        circuit_figure(Circuit.full(other), sparse_model(n_layer=1))


@every_graph
@every_kind
def test_a_drawing_is_the_same_from_its_file(graph, make):
    network = Network.of(make(graph, 0.5, seed=8))
    again = Network.from_json(network.to_json())
    assert again == network
    assert network_spec(again) == network_spec(network)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "something else"}'])
def test_what_is_no_drawing_is_refused(text):
    with pytest.raises(ValueError, match="not a drawing"):
        Network.from_json(text)


def test_titles_are_escaped():
    figure: Any = circuit_figure(Circuit.full(COMPONENT), title="<b>a & b</b>")
    assert figure.layout.title.text == "&lt;b&gt;a &amp; b&lt;/b&gt;"


def test_thousands_of_edges_are_few_traces():
    graph = ComponentGraph.from_config(config(12, 12, 48))
    figure: Any = circuit_figure(random_edge_circuit(graph, 0.1, seed=9))
    assert len(edges_of(figure)) > 3000
    assert len(figure.data) < 25
