"""What runs when readers of one sublayer differ from a circuit's, and where it stands in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import LETTERS, Sublayer
from sparse_lens.graphs.reachability import Acting
from sparse_lens.patching.incremental.spans import Indices, span
from sparse_lens.patching.incremental.state import CircuitState


@dataclass(frozen=True, eq=False)
class ReaderGroup:
    """Readers of one sublayer that differ, and act from all positions or from the answer's alone.

    `features` are those of `[batch, pos, d_model]`, or of `[batch, d_model]` at the answer's.
    """

    rows: list[int]
    all_positions: bool
    lose_edges: bool
    """Whether it is their edges that variants remove."""

    kept: Float[Tensor, "#rows before"]
    """1 for edges that the circuit keeps from writers before the sublayer; one row for all readers
    if they keep the same."""

    kept_from_changed: Float[Tensor, "#rows changed"]
    """The same from writers that differ (at all positions, for readers that act from all)."""

    differences: Float[Tensor, "before features"]
    """ablated - live of the writers before the sublayer, in the circuit as it stands."""

    ablated_stream: Float[Tensor, "batch *pos d_model"]
    """What they see with all edges cut."""


@dataclass(frozen=True, eq=False)
class WriterIndices:
    """Where writers of one sublayer stand on the first axis of tensors of writers."""

    in_graph: Indices
    in_changes_at_answer: Indices
    in_changes: Indices | None
    """None for writers that act from the answer position alone."""


@dataclass(frozen=True, eq=False)
class ProjectionSource:
    """Where queries, keys or values of some heads come from: the pass, or else the circuit."""

    group: int | None
    """Which of the step's readers they are among; None where none of them differ."""

    rows: Indices
    """Their indices in that group."""

    heads: Indices | None
    """Which of the heads they are of; None for all."""


@dataclass(frozen=True, eq=False)
class HeadGroup:
    """Heads of one layer that differ, and act from all positions or from the answer's alone."""

    heads: list[int]
    writers: WriterIndices
    sources: tuple[ProjectionSource, ProjectionSource, ProjectionSource]
    """Of queries, keys and values."""

    @property
    def all_positions(self) -> bool:
        """Whether they act from all positions."""
        return self.writers.in_changes is not None


@dataclass(frozen=True, eq=False)
class HeadsStep:
    """A layer's heads: some readers are projected, then some heads attend."""

    layer: int
    readers: list[ReaderGroup]
    heads: list[HeadGroup]


@dataclass(frozen=True, eq=False)
class MLPStep:
    """A layer's MLP."""

    layer: int
    reader: ReaderGroup
    writer: WriterIndices


class Schedule:
    """The steps of a pass.

    Args:
        rows: readers of one sublayer that lose edges; None where the circuit itself is to be
            computed, as if everything differed.
        acting: what acts on the logits, of the readers' sublayer and after it.
    """

    def __init__(self, state: CircuitState, rows: Sequence[int] | None, acting: Acting) -> None:
        self._state, self._rows, self._acting = state, rows, acting
        self._readers, writers = what_differs(state, rows, acting)
        self.writers: np.ndarray = writers.nonzero()[0]
        """Columns that differ, ascending."""
        self.writers_everywhere: np.ndarray = (writers & acting.writers_everywhere).nonzero()[0]
        """Those of them that act from all positions."""
        self.steps: list[HeadsStep | MLPStep] = []
        """In forward order."""
        for sublayer in state.graph.sublayers:
            if not writers[sublayer.writers].any():
                continue
            if sublayer.kind == "heads":
                self.steps.append(self._heads_step(sublayer, writers[sublayer.writers]))
            else:
                self.steps.append(self._mlp_step(sublayer))
        logits = [state.graph.logits_reader.start]
        self.logits = self._reader_group(logits, state.graph.n_writers, all_positions=False)

    def _mlp_step(self, sublayer: Sublayer) -> MLPStep:
        row, column = sublayer.readers.start, sublayer.writers.start
        all_positions = bool(self._acting.readers_everywhere[row])
        reader = self._reader_group([row], sublayer.n_before, all_positions=all_positions)
        return MLPStep(sublayer.layer, reader, self._writer_indices([column], all_positions))

    def _heads_step(self, sublayer: Sublayer, differ: np.ndarray) -> HeadsStep:
        rows, columns, acting = sublayer.readers, sublayer.writers, self._acting
        readers = []
        for all_positions in (True, False):
            in_group = self._readers[rows] & (acting.readers_everywhere[rows] == all_positions)
            if in_group.any():
                group = (rows.start + in_group.nonzero()[0]).tolist()
                readers.append(
                    self._reader_group(group, sublayer.n_before, all_positions=all_positions)
                )
        groups = []
        for all_positions in (True, False):
            in_group = differ & (acting.writers_everywhere[columns] == all_positions)
            if in_group.any():
                heads = in_group.nonzero()[0].tolist()
                # Heads that act from the answer position alone have keys and values at all.
                queries, keys, values = (
                    _projection_source(sublayer.readers_of(letter).start, heads, readers, at_all)
                    for letter, at_all in zip(LETTERS, (all_positions, True, True), strict=True)
                )
                writers = [columns.start + head for head in heads]
                indices = self._writer_indices(writers, all_positions)
                groups.append(HeadGroup(heads, indices, (queries, keys, values)))
        return HeadsStep(sublayer.layer, readers, groups)

    def _reader_group(self, rows: list[int], n_before: int, *, all_positions: bool) -> ReaderGroup:
        state, kept = self._state, self._state.kept[rows]
        lose_edges = self._rows is not None and rows[0] in self._rows
        if not lose_edges and (kept == kept[0]).all():
            kept = kept[:1]
        changed = self.writers_everywhere if all_positions else self.writers
        outputs = state.outputs if all_positions else state.outputs_at_answer
        differences = outputs.differences
        return ReaderGroup(
            rows,
            all_positions,
            lose_edges,
            kept=torch.from_numpy(kept[:, :n_before]).to(differences),
            kept_from_changed=torch.from_numpy(kept[:, changed[changed < n_before]]).to(
                differences
            ),
            differences=differences[:n_before].flatten(1),
            ablated_stream=state.frame.ablated_stream(n_before, all_positions=all_positions),
        )

    def _writer_indices(self, writers: list[int], all_positions: bool) -> WriterIndices:
        def among(ascending: np.ndarray) -> Indices:
            return span(np.searchsorted(ascending, writers).tolist())

        in_changes = among(self.writers_everywhere) if all_positions else None
        return WriterIndices(span(writers), among(self.writers), in_changes)


def _projection_source(
    first: int, heads: list[int], groups: list[ReaderGroup], all_positions: bool
) -> ProjectionSource:
    """Of the queries, keys or values whose rows start at `first`."""
    for i, group in enumerate(groups):
        differing = [head for head in heads if first + head in group.rows]
        if differing and group.all_positions == all_positions:
            rows = span([group.rows.index(first + head) for head in differing])
            indices = None if differing == heads else span([heads.index(h) for h in differing])
            return ProjectionSource(i, rows, indices)
    return ProjectionSource(None, [], None)


def what_differs(
    state: CircuitState, rows: Sequence[int] | None, acting: Acting
) -> tuple[np.ndarray, np.ndarray]:
    """Readers and writers that act on the logits and differ, bool each, when some readers do.

    Args:
        rows: those readers, of one sublayer; None for all.
        acting: see `Schedule`.
    """
    graph, kept = state.graph, state.kept
    readers, writers = np.zeros(graph.n_readers, bool), np.zeros(graph.n_writers, bool)
    readers[slice(None) if rows is None else rows] = True
    for sublayer in graph.sublayers:
        if rows and sublayer.readers.stop <= min(rows):
            continue  # before them
        reading = sublayer.readers
        readers[reading] |= (kept[reading] & writers).any(1)
        readers[reading] &= acting.readers[reading]
        n_writers = sublayer.writers.stop - sublayer.writers.start
        writers[sublayer.writers] = readers[reading].reshape(-1, n_writers).any(0)
    return readers, writers
