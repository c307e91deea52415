"""One batch of variants of a circuit, run through the layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import LETTERS

if TYPE_CHECKING:
    from sparse_lens.patching.variants.circuit_variants import CircuitVariants

# Streams are made and read a few variants at a time, so that they stay in the cache.
_CHUNK_ELEMENTS = {"cpu": 2**18}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26


def what_differs(circuit: CircuitVariants, rows: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Readers and writers that act on the output and differ, bool each, when some readers do.

    Args:
        rows: those readers, of one sublayer; None for all.
    """
    graph, needs, kept = circuit.graph, circuit.needs, circuit.kept
    readers, writers = np.zeros(graph.n_readers, bool), np.zeros(graph.n_writers, bool)
    readers[slice(None) if rows is None else rows] = True
    for layer in range(graph.n_layers):
        if rows and graph.mlp_reader(layer).stop <= min(rows):
            continue  # before them
        heads = graph.head_readers(layer)
        readers[heads] |= kept[heads][:, writers].any(1)
        readers[heads] &= needs.readers[heads]
        writers[graph.head_writers(layer)] = readers[heads].reshape(3, -1).any(0)
        mlp = graph.mlp_reader(layer)
        readers[mlp] |= kept[mlp][:, writers].any(1)
        readers[mlp] &= needs.readers[mlp]
        writers[graph.mlp_writer(layer)] = readers[mlp]
    return readers, writers


class VariantPass:
    """Variants that differ at readers of one sublayer; without any, the circuit itself.

    Of each writer that differs it keeps by how much: the streams of later readers are those of the
    circuit and the sum of these changes.
    """

    def __init__(
        self,
        circuit: CircuitVariants,
        rows: list[int] | None = None,
        kept: np.ndarray | None = None,
    ) -> None:
        self._circuit, self._graph, self._frame = circuit, circuit.graph, circuit.frame
        self._rows, self._kept = rows or [], kept
        self._variants = 1 if kept is None else len(kept)
        self._reader_differs, self._writer_differs = what_differs(circuit, rows)
        differing = self._writer_differs.nonzero()[0]
        everywhere = circuit.needs.writers_everywhere
        self._writers = differing
        self._writers_everywhere = differing[everywhere[differing]]
        batch, _, width = self._frame.shape
        size = (len(self._writers), self._variants, batch, width)
        self._changes_at_answer = circuit.scratch("changes at the answer", size)
        size = (len(self._writers_everywhere), self._variants, *self._frame.shape)
        self._changes = circuit.scratch("changes", size)
        self._projected: list[tuple[str, int, list[int], bool, Tensor]] = []
        elements = _CHUNK_ELEMENTS.get(self._changes.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
        self._chunk_rows = max(1, elements // width)

    def run(self) -> Float[Tensor, "variants n vocab"]:
        """Logits at the answer position."""
        graph, everywhere = self._graph, self._circuit.needs.writers_everywhere
        for layer in range(graph.n_layers):
            columns = graph.head_writers(layer)
            if self._writer_differs[columns].any():
                for group in (True, False):
                    self._project(layer, everywhere=group)
                for group in (True, False):
                    chosen = self._writer_differs[columns] & (everywhere[columns] == group)
                    if chosen.any():
                        self._run_heads(layer, chosen.nonzero()[0].tolist(), everywhere=group)
            row = graph.mlp_reader(layer)
            if self._reader_differs[row].any():
                self._run_mlp(layer, row.start)
        last = self._streams([graph.logits_reader.start], graph.n_writers, everywhere=False)
        return self._frame.logits(torch.cat([streams[0] for _, streams in last]))

    def adopt(self, variant: int) -> None:
        """Write what one of the variants computed into the circuit."""
        circuit = self._circuit
        if self._kept is not None:
            circuit.kept[self._rows] = self._kept[variant]
        circuit.add(self._writers_everywhere.tolist(), self._changes[:, variant], everywhere=True)
        circuit.add(self._writers.tolist(), self._changes_at_answer[:, variant], everywhere=False)
        for letter, layer, heads, everywhere, values in self._projected:
            for head, value in zip(heads, values[:, variant], strict=True):
                place = circuit.projected[letter][layer, head]
                if everywhere:
                    place.copy_(value)
                else:
                    self._frame.spread(value, place)

    # Heads.

    def _run_heads(self, layer: int, heads: list[int], *, everywhere: bool) -> None:
        """Heads that are heard at all positions, or at the answer's alone."""
        z = self._frame.attend(
            layer,
            heads,
            self._projections("q", layer, heads, everywhere=everywhere),
            self._projections("k", layer, heads, everywhere=True),
            self._projections("v", layer, heads, everywhere=True),
            everywhere=everywhere,
        )
        live = self._frame.layers[layer].write(heads, z.flatten(1, -2))
        first = self._graph.head_writers(layer).start
        writers = [first + head for head in heads]
        self._note(writers, live.view(*z.shape[:-1], -1), everywhere=everywhere)

    def _projections(
        self, letter: str, layer: int, heads: list[int], *, everywhere: bool
    ) -> Float[Tensor, "heads variants batch *pos d_head"]:
        """Queries, keys or values of some heads; those that do not differ are the circuit's."""
        new = [
            (those, values)
            for one, at, those, group, values in self._projected[-6:]
            if (one, at, group) == (letter, layer, everywhere)
        ]
        if new and new[0][0] == heads:
            return new[0][1]
        known = self._circuit.projected[letter][layer]
        known = known if len(heads) == len(known) else known[heads]
        known = known if everywhere else self._frame.at_answer(known)
        found = known[:, None].expand(-1, self._variants, *known.shape[1:])
        for those, values in new:
            here = [i for i, head in enumerate(those) if head in heads]
            found = found.clone()
            found[[heads.index(those[i]) for i in here]] = values[here]
        return found

    def _project(self, layer: int, *, everywhere: bool) -> None:
        """Read all queries, keys and values of a layer that differ at all positions (or not)."""
        graph, (batch, pos, _) = self._graph, self._frame.shape
        where = graph.head_readers(layer)
        differs = self._reader_differs[where]
        differs = differs & (self._circuit.needs.readers_everywhere[where] == everywhere)
        rows = (where.start + differs.nonzero()[0]).tolist()
        if not rows:
            return
        by_letter = {
            letter: differs[i * graph.n_heads : (i + 1) * graph.n_heads].nonzero()[0].tolist()
            for i, letter in enumerate(LETTERS)
        }
        shape = (batch, pos) if everywhere else (batch,)
        tokens = torch.Size(shape).numel()
        found = self._changes.new_empty(len(rows), self._variants * tokens, graph.d_head)
        parts = self._frame.layers[layer]
        kept = self._circuit.kept[rows]
        seen = rows[:1] if self._kept is None and (kept == kept[0]).all() else rows
        n_before = graph.head_writers(layer).start
        for chunk, streams in self._streams(seen, n_before, everywhere=everywhere):
            positions = self._frame.positions(chunk.stop - chunk.start, everywhere=everywhere)
            read = parts.read_(streams.flatten(1, -2), positions).expand(len(rows), -1, -1)
            part, start = slice(chunk.start * tokens, chunk.stop * tokens), 0
            for letter, heads in by_letter.items():
                stop = start + len(heads)
                if heads:
                    parts.project(letter, heads, read[start:stop], out=found[start:stop, part])
                start = stop
        values = found.view(len(rows), self._variants, *shape, -1)
        for letter, heads in by_letter.items():
            if heads:
                self._projected.append((letter, layer, heads, everywhere, values[: len(heads)]))
            values = values[len(heads) :]

    # MLPs.

    def _run_mlp(self, layer: int, row: int) -> None:
        everywhere = bool(self._circuit.needs.readers_everywhere[row])
        writer = self._graph.mlp_writer(layer).start
        for chunk, streams in self._streams([row], writer, everywhere=everywhere, width=4):
            stream = streams[0].flatten(0, 1)
            stream = stream if everywhere else stream[:, None]
            positions = self._frame.positions(chunk.stop - chunk.start, everywhere=everywhere)
            live = self._frame.layers[layer].mlp(stream, positions)
            live = live.unflatten(0, (chunk.stop - chunk.start, -1))
            live = live if everywhere else live[:, :, 0]
            self._note([writer], live[None], chunk, everywhere=everywhere)

    # Streams.

    def _chunks(self, rows: int) -> list[slice]:
        """Few variants at a time, each of so many vectors as wide as the stream."""
        step = max(1, self._chunk_rows // rows)
        starts = range(0, self._variants, step)
        return [slice(start, min(start + step, self._variants)) for start in starts]

    def _note(
        self,
        writers: list[int],
        live: Float[Tensor, "writers variants batch *pos d_model"],
        chunk: slice | None = None,
        *,
        everywhere: bool,
    ) -> None:
        """Keep by how much writers of one sublayer differ."""
        chunk = chunk or slice(0, self._variants)
        known = self._circuit.live if everywhere else self._circuit.live_at_answer
        known = known[_span(writers)][:, None]
        if everywhere:
            where = _span(np.searchsorted(self._writers_everywhere, writers).tolist())
            change = torch.sub(live, known, out=self._changes[where, chunk])
            change = self._frame.at_answer(change)
        else:
            change = live - known
        where = _span(np.searchsorted(self._writers, writers).tolist())
        self._changes_at_answer[where, chunk] = change

    def _streams(
        self, rows: list[int], n_before: int, *, everywhere: bool, width: int = 1
    ) -> Iterator[tuple[slice, Float[Tensor, "rows variants batch *pos d_model"]]]:
        """What readers of one sublayer see, at all positions or at the answer's, in some variants.

        Args:
            n_before: writers before the sublayer.
            width: of what readers make of a stream, in widths of the stream.
        """
        circuit = self._circuit
        known = circuit.differences if everywhere else circuit.differences_at_answer
        background = self._frame.background(rows[0], everywhere=everywhere)
        chunks = self._chunks(len(rows) * width * background.shape[:-1].numel())
        if rows[0] in self._rows:
            assert self._kept is not None
            places = [self._rows.index(row) for row in rows]
            for chunk in chunks:
                kept = self._kept[chunk][:, places].swapaxes(0, 1)
                streams = _sum(kept.reshape(-1, kept.shape[2])[:, :n_before], known)
                streams = streams.view(len(rows), -1, *background.shape).add_(background)
                yield chunk, streams
            return
        before = _sum(circuit.kept[rows, :n_before], known)
        before = before.view(len(rows), 1, *background.shape).add_(background)
        writers = self._writers_everywhere if everywhere else self._writers
        heard = circuit.kept[rows][:, writers[writers < n_before]]
        changes = self._changes if everywhere else self._changes_at_answer
        for chunk in chunks:
            n = chunk.stop - chunk.start
            if heard.any():
                streams = _sum(heard, changes[:, chunk]).view(len(rows), n, *background.shape)
                yield chunk, streams.add_(before)
            else:
                yield chunk, before.expand(-1, n, *background.shape).contiguous()


def _sum(
    kept: np.ndarray, values: Float[Tensor, "writers *variants_batch_pos d"]
) -> Float[Tensor, "rows elements"]:
    """For each row the sum of the values that it keeps of the first few."""
    weights = torch.from_numpy(kept).to(values)
    return weights @ values[: kept.shape[1]].flatten(1)


def _span(places: list[int]) -> slice | list[int]:
    """As a slice where they are next to each other, which needs no copy."""
    first, last = places[0], places[-1] + 1
    return slice(first, last) if last - first == len(places) else places
