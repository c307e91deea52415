"""The texts that a drawing shows when the pointer is on a node."""

from __future__ import annotations

from collections import defaultdict
from html import escape

from sparse_lens.plotting.edge_traces import number_text
from sparse_lens.plotting.network import Edge, Network
from sparse_lens.plotting.profiles import Profile
from sparse_lens.plotting.sites import kind_of
from sparse_lens.plotting.theme import LETTERS

_N_EDGES = 3
"""Edges in, and edges out, that are named: the strongest."""

_BLANKS = {" ": "\N{OPEN BOX}", "\n": "\N{RETURN SYMBOL}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}


class HoverTexts:
    """Texts of all nodes of a drawing, as HTML."""

    def __init__(self, network: Network) -> None:
        self._network = network
        profiles = network.profiles
        self._classes = () if profiles is None else profiles.classes
        self._unit = "" if profiles is None else profiles.unit
        self._profiles = {} if profiles is None else {node.name: node for node in profiles.nodes}
        self._edges_in: dict[int, list[Edge]] = defaultdict(list)
        self._edges_out: dict[int, list[Edge]] = defaultdict(list)
        for edge in network.edges:
            self._edges_in[edge.target].append(edge)
            self._edges_out[edge.source].append(edge)

    def __call__(self, number: int) -> str:
        """The text of a node, by its number."""
        node = self._network.nodes[number]
        lines = [
            f"<b>{escape(node.name)}</b>",
            f"site {escape(node.site)}{self._head(number)}",
            f"{node.n_in} edges in, {node.n_out} out",
        ]
        if node.score is not None:
            lines.append(f"score {number_text(node.score)}")
        if not node.connected:
            lines.append("not on a path from input to output")
        if node.name in self._profiles:
            lines += self._profile(self._profiles[node.name])
        edges_in, edges_out = self._edges_in[number], self._edges_out[number]
        lines += self._strongest("from", [(edge, edge.source) for edge in edges_in])
        lines += self._strongest("to", [(edge, edge.target) for edge in edges_out])
        return "<br>".join(lines)

    def _head(self, number: int) -> str:
        node = self._network.nodes[number]
        if kind_of(node.site) not in LETTERS:
            return ""
        head, channel = divmod(node.index, self._network.d_head)
        return f", head {head}, channel {channel} of {self._network.d_head}"

    def _profile(self, profile: Profile) -> list[str]:
        means = ", ".join(
            f"{number_text(mean)} before {_quoted(answer)}"
            if len(self._classes) > 1
            else number_text(mean)
            for answer, mean in zip(self._classes, profile.means, strict=True)
        )
        lines = [f"mean {self._unit} {means}"]
        if profile.effect is not None:
            lines.append(f"without it the loss changes by {number_text(profile.effect)} nats")
        if profile.top_tokens:
            lines.append("most on " + " ".join(map(_quoted, profile.top_tokens)))
        return lines

    def _strongest(self, preposition: str, edges: list[tuple[Edge, int]]) -> list[str]:
        """The strongest edges, each given with the node at its other end."""
        strengths = [
            (edge.strength, neighbour) for edge, neighbour in edges if edge.strength is not None
        ]
        if not strengths:
            return []
        strengths.sort(key=lambda item: -abs(item[0]))
        named = ", ".join(
            f"{escape(self._network.nodes[neighbour].name)} {number_text(strength)}"
            for strength, neighbour in strengths[:_N_EDGES]
        )
        return [f"{preposition} {named}"]


def _quoted(token: str) -> str:
    """A token in bold, with visible characters for its blanks."""
    shown = "".join(_BLANKS.get(character, character) for character in token)
    return f"<b>{escape(shown)}</b>"
