"""What runs when readers of one sublayer differ from a circuit's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import Sublayer
from sparse_lens.graphs.reachability import Acting
from sparse_lens.patching.variants.spans import span

if TYPE_CHECKING:
    from sparse_lens.patching.variants.circuit_variants import CircuitVariants

Places = slice | list[int]


@dataclass(frozen=True, eq=False)
class Reads:
    """Readers of one sublayer that differ, and are needed at all positions or the answer's.

    What they see is flat: `elements` are those of `[batch, pos, d_model]`, or without `pos`.
    """

    rows: list[int]
    everywhere: bool
    variants_differ_in: bool
    """whether it is their edges that variants remove"""

    kept: Float[Tensor, "#rows before"]
    """1 for the edges that the circuit keeps from writers before the sublayer; one row for all
    readers that keep the same"""

    heard: Float[Tensor, "#rows differing"]
    """1 for those from writers that differ (of which at the answer alone only for such readers)"""

    known: Float[Tensor, "before elements"]
    """live - ablated of the writers before the sublayer, in the circuit as it stands"""

    background: Float[Tensor, "batch *pos d_model"]
    """what they see with all edges cut"""


@dataclass(frozen=True, eq=False)
class Slots:
    """Where writers of one sublayer are among others."""

    all: Places
    differing: Places
    everywhere: Places | None
    """among those that differ and are heard at all positions; None if at the answer's alone"""


@dataclass(frozen=True, eq=False)
class Found:
    """Where the queries, keys or values of some heads are."""

    read: int | None
    """the layer's reads that they are among; None where none of them differ"""

    places: Places
    """which of the reads' rows"""

    heads: Places | None
    """of which of the heads they are; None for all, else the circuit's own serve the others"""


@dataclass(frozen=True, eq=False)
class Heads:
    """Heads of one layer that differ, and are heard at all positions or at the answer's."""

    heads: list[int]
    slots: Slots
    found: tuple[Found, Found, Found]
    """queries, keys and values"""

    @property
    def everywhere(self) -> bool:
        """Whether they are heard at all positions."""
        return self.slots.everywhere is not None


@dataclass(frozen=True, eq=False)
class HeadsStep:
    """What a layer's heads read, and those of them that run."""

    layer: int
    reads: list[Reads]
    heads: list[Heads]


@dataclass(frozen=True, eq=False)
class MLPStep:
    """What a layer's MLP reads."""

    layer: int
    reads: Reads
    slots: Slots


class Plan:
    """The steps of a pass of variants that differ at some readers.

    Args:
        rows: readers of one sublayer; None for all, where the circuit itself is to be computed.
        needs: of the circuit, as far as they lie in this sublayer and after it.
    """

    def __init__(self, circuit: CircuitVariants, rows: Sequence[int] | None, needs: Acting) -> None:
        self._circuit, self._rows, self._needs = circuit, rows, needs
        graph = circuit.graph
        self._readers, writers = what_differs(circuit, rows, needs)
        self.writers: np.ndarray = writers.nonzero()[0]
        """columns that differ"""
        self.writers_everywhere: np.ndarray = (writers & needs.writers_everywhere).nonzero()[0]
        """those of them that are heard at all positions"""
        self.steps: list[HeadsStep | MLPStep] = []
        """in the order of the layers"""
        for sublayer in graph.sublayers:
            if not writers[sublayer.writers].any():
                continue
            if sublayer.kind == "heads":
                self.steps.append(self._heads_step(sublayer, writers[sublayer.writers]))
            else:
                self.steps.append(self._mlp_step(sublayer))
        last = [graph.logits_reader.start]
        self.logits = self._reads(last, graph.n_writers, everywhere=False)

    def _mlp_step(self, sublayer: Sublayer) -> MLPStep:
        row, column = sublayer.readers.start, sublayer.writers.start
        everywhere = bool(self._needs.readers_everywhere[row])
        reads = self._reads([row], column, everywhere=everywhere)
        return MLPStep(sublayer.layer, reads, self._slots([column], everywhere))

    def _heads_step(self, sublayer: Sublayer, differ: np.ndarray) -> HeadsStep:
        graph, needs = self._circuit.graph, self._needs
        where, columns = sublayer.readers, sublayer.writers
        reads = []
        for everywhere in (True, False):
            chosen = self._readers[where] & (needs.readers_everywhere[where] == everywhere)
            if chosen.any():
                rows = (where.start + chosen.nonzero()[0]).tolist()
                reads.append(self._reads(rows, columns.start, everywhere=everywhere))
        heads = []
        for everywhere in (True, False):
            chosen = differ & (needs.writers_everywhere[columns] == everywhere)
            if chosen.any():
                ours = chosen.nonzero()[0].tolist()
                found = [
                    self._found(where.start + i * graph.n_heads, ours, reads, at)
                    for i, at in enumerate((everywhere, True, True))
                ]
                slots = self._slots([columns.start + head for head in ours], everywhere)
                heads.append(Heads(ours, slots, (found[0], found[1], found[2])))
        return HeadsStep(sublayer.layer, reads, heads)

    def _reads(self, rows: list[int], n_before: int, *, everywhere: bool) -> Reads:
        circuit, kept = self._circuit, self._circuit.kept[rows]
        variants_differ_in = self._rows is not None and rows[0] in self._rows
        if not variants_differ_in and (kept == kept[0]).all():
            kept = kept[:1]
        writers = self.writers_everywhere if everywhere else self.writers
        known = circuit.differences if everywhere else circuit.differences_at_answer
        return Reads(
            rows,
            everywhere,
            variants_differ_in,
            kept=torch.from_numpy(kept[:, :n_before]).to(known),
            heard=torch.from_numpy(kept[:, writers[writers < n_before]]).to(known),
            known=known[:n_before].flatten(1),
            background=circuit.frame.background(rows[0], everywhere=everywhere),
        )

    def _slots(self, writers: list[int], everywhere: bool) -> Slots:
        def among(others: np.ndarray) -> Places:
            return span(np.searchsorted(others, writers).tolist())

        there = among(self.writers_everywhere) if everywhere else None
        return Slots(span(writers), among(self.writers), there)

    @staticmethod
    def _found(first: int, heads: list[int], reads: list[Reads], everywhere: bool) -> Found:
        """Of one letter, whose rows start there."""
        for i, read in enumerate(reads):
            here = [head for head in heads if first + head in read.rows]
            if here and read.everywhere == everywhere:
                places = span([read.rows.index(first + head) for head in here])
                whose = None if here == heads else span([heads.index(head) for head in here])
                return Found(i, places, whose)
        return Found(None, [], None)


def what_differs(
    circuit: CircuitVariants, rows: Sequence[int] | None, needs: Acting
) -> tuple[np.ndarray, np.ndarray]:
    """Readers and writers that act on the output and differ, bool each, when some readers do.

    Args:
        rows: those readers, of one sublayer; None for all.
        needs: see `Plan`.
    """
    graph, kept = circuit.graph, circuit.kept
    readers, writers = np.zeros(graph.n_readers, bool), np.zeros(graph.n_writers, bool)
    readers[slice(None) if rows is None else rows] = True
    for sublayer in graph.sublayers:
        if rows and sublayer.readers.stop <= min(rows):
            continue  # before them
        reading = sublayer.readers
        readers[reading] |= (kept[reading] & writers).any(1)
        readers[reading] &= needs.readers[reading]
        n_writers = sublayer.writers.stop - sublayer.writers.start
        writers[sublayer.writers] = readers[reading].reshape(-1, n_writers).any(0)
    return readers, writers
