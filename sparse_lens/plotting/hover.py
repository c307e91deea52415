"""What a drawing says of a node that is pointed at."""

from __future__ import annotations

from collections import defaultdict
from html import escape

from sparse_lens.plotting.channel_layout import kind_of
from sparse_lens.plotting.edge_traces import number_text
from sparse_lens.plotting.network import Edge, Network
from sparse_lens.plotting.profiles import Profile
from sparse_lens.plotting.theme import LETTERS

_STRONGEST = 3
"""Edges that are named, in and out."""

_SPECIAL = {" ": "\N{OPEN BOX}", "\n": "\N{RETURN SYMBOL}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}


class HoverTexts:
    """Texts of all nodes of a drawing, as HTML."""

    def __init__(self, network: Network) -> None:
        self._network = network
        found = network.profiles
        self._classes = () if found is None else found.classes
        self._unit = "" if found is None else found.unit
        self._profiles = {} if found is None else {profile.name: profile for profile in found.nodes}
        self._into: dict[int, list[Edge]] = defaultdict(list)
        self._out: dict[int, list[Edge]] = defaultdict(list)
        for edge in network.edges:
            self._into[edge.target].append(edge)
            self._out[edge.source].append(edge)

    def __call__(self, number: int) -> str:
        """That of a node, by its number."""
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
        lines += self._edges("from", self._into[number], source=True)
        lines += self._edges("to", self._out[number], source=False)
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

    def _edges(self, preposition: str, edges: list[Edge], *, source: bool) -> list[str]:
        strong = [edge for edge in edges if edge.strength is not None]
        strong.sort(key=lambda edge: -abs(edge.strength or 0.0))
        if not strong:
            return []
        named = ", ".join(
            f"{escape(self._network.nodes[edge.source if source else edge.target].name)} "
            f"{number_text(edge.strength or 0.0)}"
            for edge in strong[:_STRONGEST]
        )
        return [f"{preposition} {named}"]


def _quoted(token: str) -> str:
    """A token as code, with its blanks to be seen."""
    shown = "".join(_SPECIAL.get(character, character) for character in token)
    return f"<b>{escape(shown)}</b>"
