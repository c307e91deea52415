"""One batch of variants of a circuit, run through the layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.patching.variants.plan import Found, Heads, HeadsStep, MLPStep, Plan, Reads, Slots
from sparse_lens.patching.variants.spans import span

if TYPE_CHECKING:
    from sparse_lens.patching.variants.circuit_variants import CircuitVariants

# Streams are made and read a few variants at a time, so that they stay in the cache.
_CHUNK_ELEMENTS = {"cpu": 2**18}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26


class VariantPass:
    """Variants that differ at readers of one sublayer; without any, the circuit itself.

    Of each writer that differs it keeps by how much: the streams of later readers are those of the
    circuit and the sum of these changes.

    Args:
        rows: those readers.
        kept: what they keep in each variant, bool [variants, rows, writers].
    """

    def __init__(
        self,
        circuit: CircuitVariants,
        plan: Plan,
        rows: list[int] | None = None,
        kept: np.ndarray | None = None,
    ) -> None:
        self._circuit, self._graph, self._frame = circuit, circuit.graph, circuit.frame
        self._plan, self._rows, self._kept = plan, rows or [], kept
        self._variants = 1 if kept is None else len(kept)
        batch, _, width = self._frame.shape
        size = (len(plan.writers), self._variants, batch, width)
        self._changes_at_answer = circuit.scratch("changes at the answer", size)
        size = (len(plan.writers_everywhere), self._variants, *self._frame.shape)
        self._changes = circuit.scratch("changes", size)
        self._projected: list[tuple[int, Reads, Tensor]] = []
        elements = _CHUNK_ELEMENTS.get(self._changes.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
        self._chunk_rows = max(1, elements // width)

    def run(self) -> Float[Tensor, "variants n vocab"]:
        """Logits at the answer position."""
        for step in self._plan.steps:
            if isinstance(step, HeadsStep):
                self._run_heads(step)
            else:
                self._run_mlp(step)
        last = [streams[0] for _, streams in self._streams(self._plan.logits)]
        return self._frame.logits(last[0] if len(last) == 1 else torch.cat(last))

    def adopt(self, variant: int) -> None:
        """Write what one of the variants computed into the circuit."""
        circuit, plan = self._circuit, self._plan
        if self._kept is not None:
            circuit.kept[self._rows] = self._kept[variant]
        circuit.add(plan.writers_everywhere.tolist(), self._changes[:, variant], everywhere=True)
        circuit.add(plan.writers.tolist(), self._changes_at_answer[:, variant], everywhere=False)
        for layer, reads, values in self._projected:
            first = self._graph.heads(layer).readers.start
            known, places = circuit.projected[layer], [row - first for row in reads.rows]
            if reads.everywhere:
                known[span(places)] = values[:, variant]
                continue
            for place, value in zip(places, values[:, variant], strict=True):
                self._frame.spread(value, known[place])

    # Heads.

    def _run_heads(self, step: HeadsStep) -> None:
        found = [self._project(step.layer, reads) for reads in step.reads]
        parts = self._frame.layers[step.layer]
        for some in step.heads:
            queries, keys, values = (
                self._projections(step.layer, letter, some, found) for letter in range(3)
            )
            z = self._frame.attend(
                step.layer, some.heads, queries, keys, values, everywhere=some.everywhere
            )
            live = parts.write(some.heads, z.flatten(1, -2)).view(*z.shape[:-1], -1)
            self._note(some.slots, live)

    def _projections(
        self, layer: int, letter: int, some: Heads, found: list[Tensor]
    ) -> Float[Tensor, "heads variants batch *pos d_head"]:
        """Queries, keys or values of some heads; those that do not differ are the circuit's."""
        where: Found = some.found[letter]
        if where.read is not None and where.heads is None:
            return found[where.read][where.places]
        first = letter * self._graph.n_heads
        known = self._circuit.projected[layer][span([first + head for head in some.heads])]
        if letter == 0 and not some.everywhere:
            known = self._frame.at_answer(known)
        known = known[:, None].expand(-1, self._variants, *known.shape[1:])
        if where.read is not None:
            known = known.clone()
            known[where.heads] = found[where.read][where.places]
        return known

    def _project(self, layer: int, reads: Reads) -> Float[Tensor, "rows variants batch *pos d"]:
        """Queries, keys and values that differ at all positions, or at the answer's."""
        parts, first = self._frame.layers[layer], self._graph.heads(layer).readers.start
        readers = tuple(row - first for row in reads.rows)
        found = []
        for chunk, streams in self._streams(reads):
            n = chunk.stop - chunk.start
            positions = self._frame.positions(n, everywhere=reads.everywhere)
            read = parts.read_(streams.flatten(1, -2), positions).expand(len(readers), -1, -1)
            shape = (len(readers), *streams.shape[1:-1], self._graph.d_head)
            found.append(parts.project(readers, read).view(shape))
        values = found[0] if len(found) == 1 else torch.cat(found, 1)
        self._projected.append((layer, reads, values))
        return values

    # MLPs.

    def _run_mlp(self, step: MLPStep) -> None:
        everywhere = step.reads.everywhere
        for chunk, streams in self._streams(step.reads, width=4):
            n = chunk.stop - chunk.start
            stream = streams[0].flatten(0, 1)
            stream = stream if everywhere else stream[:, None]
            positions = self._frame.positions(n, everywhere=everywhere)
            live = self._frame.layers[step.layer].mlp(stream, positions).view(1, *streams.shape[1:])
            self._note(step.slots, live, chunk)

    # Streams.

    def _chunks(self, rows: int) -> list[slice]:
        """Few variants at a time, each of so many vectors as wide as the stream."""
        step = max(1, self._chunk_rows // rows)
        starts = range(0, self._variants, step)
        return [slice(start, min(start + step, self._variants)) for start in starts]

    def _note(
        self,
        slots: Slots,
        live: Float[Tensor, "writers variants batch *pos d_model"],
        chunk: slice | None = None,
    ) -> None:
        """Keep by how much writers of one sublayer differ."""
        chunk = chunk or slice(0, self._variants)
        if slots.everywhere is None:
            change = live - self._circuit.live_at_answer[slots.all][:, None]
        else:
            out = self._changes[slots.everywhere, chunk]
            known = self._circuit.live[slots.all][:, None]
            change = self._frame.at_answer(torch.sub(live, known, out=out))
        self._changes_at_answer[slots.differing, chunk] = change

    def _streams(
        self, reads: Reads, *, width: int = 1
    ) -> Iterator[tuple[slice, Float[Tensor, "rows variants batch *pos d_model"]]]:
        """What readers of one sublayer see, in some variants at a time.

        Where all see the same, it is given once.

        Args:
            width: of what readers make of a stream, in widths of the stream.
        """
        n_rows, shape = len(reads.heard), reads.background.shape
        chunks = self._chunks(n_rows * width * shape[:-1].numel())
        background = reads.background.reshape(1, -1)
        if reads.variants_differ_in:
            assert self._kept is not None
            places = [self._rows.index(row) for row in reads.rows]
            kept = self._kept[:, places, : len(reads.known)].swapaxes(0, 1)
            weights = torch.from_numpy(kept).to(reads.known)
            for chunk in chunks:
                here = weights[:, chunk].flatten(0, 1)
                yield chunk, torch.addmm(background, here, reads.known).view(n_rows, -1, *shape)
            return
        before = torch.addmm(background, reads.kept, reads.known).view(n_rows, 1, *shape)
        changes = self._changes if reads.everywhere else self._changes_at_answer
        changes = changes[: reads.heard.shape[1]]
        for chunk in chunks:
            streams = torch.mm(reads.heard, changes[:, chunk].flatten(1))
            yield chunk, streams.view(n_rows, -1, *shape).add_(before)
