"""One batch of variants of a circuit, run through the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from sparse_lens.patching.variants.circuit_variants import CircuitVariants

# The streams of many readers are made and read a few at a time, so that they stay in the cache.
_CHUNK_ELEMENTS = {"cpu": 2**20}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26


class VariantPass:
    """Variants that differ at readers of one sublayer; without any, the circuit itself."""

    def __init__(
        self,
        circuit: CircuitVariants,
        rows: list[int] | None = None,
        kept: np.ndarray | None = None,
    ) -> None:
        self._circuit, self._graph, self._frame = circuit, circuit.graph, circuit.frame
        self._rows, self._kept = rows or [], kept
        self._variants = 1 if kept is None else len(kept)
        self._find_what_differs(everything=rows is None)
        differing = self._writer_differs.nonzero()[0]
        everywhere = circuit.needs.writers_everywhere
        self._writers = differing.tolist()
        self._writers_everywhere = differing[everywhere[differing]].tolist()
        batch, _, width = self._frame.shape
        size = (len(self._writers), self._variants, batch, width)
        self._at_answer = circuit.scratch("at answer", size)
        size = (len(self._writers_everywhere), self._variants, *self._frame.shape)
        self._differences = circuit.scratch("differences", size)
        self._projected: list[tuple[str, int, list[int], bool, Tensor]] = []

    def _find_what_differs(self, *, everything: bool) -> None:
        """Readers and writers whose values are to be computed."""
        graph, needs, kept = self._graph, self._circuit.needs, self._circuit.kept
        readers, writers = np.zeros(graph.n_readers, bool), np.zeros(graph.n_writers, bool)
        readers[self._rows] = True
        readers |= everything
        for layer in range(graph.n_layers):
            heads = graph.head_readers(layer)
            readers[heads] |= kept[heads][:, writers].any(1)
            readers[heads] &= needs.readers[heads]
            writers[graph.head_writers(layer)] = readers[heads].reshape(3, -1).any(0)
            mlp = graph.mlp_reader(layer)
            readers[mlp] |= kept[mlp][:, writers].any(1)
            readers[mlp] &= needs.readers[mlp]
            writers[graph.mlp_writer(layer)] = readers[mlp]
        self._reader_differs, self._writer_differs = readers, writers

    def run(self) -> Float[Tensor, "variants n vocab"]:
        """Logits at the answer position."""
        for layer in range(self._graph.n_layers):
            self._run_heads(layer)
            row = self._graph.mlp_reader(layer)
            if self._reader_differs[row].any():
                self._run_mlp(layer, row.start)
        last = self._streams([self._graph.logits_reader.start], everywhere=False)
        return self._frame.logits(last[0])

    def adopt(self, variant: int) -> None:
        """Write what one of the variants computed into the circuit."""
        circuit = self._circuit
        if self._kept is not None:
            circuit.kept[self._rows] = self._kept[variant]
        circuit.differences[self._writers_everywhere] = self._differences[:, variant]
        circuit.at_answer[self._writers] = self._at_answer[:, variant]
        for letter, layer, heads, everywhere, values in self._projected:
            place = circuit.projected[letter][layer]
            if everywhere:
                place[heads] = values[:, variant]
            else:
                found = place[heads]
                self._frame.spread(values[:, variant], found)
                place[heads] = found

    # Heads.

    def _run_heads(self, layer: int) -> None:
        columns = self._graph.head_writers(layer)
        heads = self._writer_differs[columns].nonzero()[0].tolist()
        if not heads:
            return
        parts, variants = self._frame.layers[layer], self._variants
        attended = parts.attend(
            heads,
            self._queries_keys_or_values("q", layer, heads),
            self._queries_keys_or_values("k", layer, heads),
            self._queries_keys_or_values("v", layer, heads),
            self._frame.attention_mask(variants),
        )
        z = attended.view(variants, *self._frame.shape[:2], len(heads), -1)
        z = z.permute(3, 0, 1, 2, 4)  # [head, variant, batch, pos, d_head]
        everywhere = self._circuit.needs.writers_everywhere[columns][heads]
        for group in (True, False):
            chosen = (everywhere == group).nonzero()[0].tolist()
            if chosen:
                part = z[chosen] if group else self._frame.at_answer(z[chosen])
                those = [heads[i] for i in chosen]
                live = parts.write(those, part.flatten(1, -2)).view(*part.shape[:-1], -1)
                self._note([columns.start + head for head in those], live, everywhere=group)

    def _queries_keys_or_values(
        self, letter: str, layer: int, heads: list[int]
    ) -> Float[Tensor, "batch pos heads d_head"]:
        """Of some heads; those that do not differ are the circuit's."""
        first = self._graph.head_readers(layer, letter).start
        known = self._circuit.projected[letter][layer]
        known = known if len(heads) == len(known) else known[heads]
        new = [head for head in heads if self._reader_differs[first + head]]
        values = known[:, None].expand(-1, self._variants, *known.shape[1:])
        if new:
            values = values.clone()
        everywhere = self._circuit.needs.readers_everywhere[first : first + self._graph.n_heads]
        for group in (True, False):
            chosen = [head for head in new if everywhere[head] == group]
            if chosen:
                found = self._project(letter, layer, chosen, everywhere=group)
                self._projected.append((letter, layer, chosen, group, found))
                where = [heads.index(head) for head in chosen]
                if group:
                    values[where] = found
                else:
                    part = values[where]
                    self._frame.spread(found, part)
                    values[where] = part
        return values.permute(1, 2, 3, 0, 4).flatten(0, 1)

    def _project(
        self, letter: str, layer: int, heads: list[int], *, everywhere: bool
    ) -> Float[Tensor, "heads variants batch *pos d_head"]:
        first = self._graph.head_readers(layer, letter).start
        batch, pos, width = self._frame.shape
        shape = (self._variants, batch, pos) if everywhere else (self._variants, batch)
        positions = self._frame.positions(self._variants, everywhere=everywhere)
        size = torch.Size(shape).numel() * width
        device = self._circuit.differences.device.type
        step = max(1, _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS_ELSEWHERE) // size)
        found = []
        for start in range(0, len(heads), step):
            some = heads[start : start + step]
            streams = self._streams([first + head for head in some], everywhere=everywhere)
            parts = self._frame.layers[layer]
            found.append(parts.project_(letter, some, streams.flatten(1, -2), positions))
        return torch.cat(found).view(len(heads), *shape, -1)

    # MLPs.

    def _run_mlp(self, layer: int, row: int) -> None:
        everywhere = bool(self._circuit.needs.readers_everywhere[row])
        stream = self._streams([row], everywhere=everywhere)[0].flatten(0, 1)
        stream = stream if everywhere else stream[:, None]
        positions = self._frame.positions(self._variants, everywhere=everywhere)
        live = self._frame.layers[layer].mlp(stream, positions)
        live = live.unflatten(0, (self._variants, -1))
        live = live if everywhere else live[:, :, 0]
        self._note([self._graph.mlp_writer(layer).start], live[None], everywhere=everywhere)

    # Streams.

    def _note(self, writers: list[int], live: Tensor, *, everywhere: bool) -> None:
        """Keep live - ablated of writers that were computed, `[writers, variants, batch, ...]`."""
        ablated = self._frame.ablated(writers, everywhere=everywhere)
        change = live - (ablated[:, None] if isinstance(ablated, Tensor) else ablated)
        if everywhere:
            where = [self._writers_everywhere.index(writer) for writer in writers]
            self._differences[where] = change
            change = self._frame.at_answer(change)
        self._at_answer[[self._writers.index(writer) for writer in writers]] = change

    def _streams(
        self, rows: list[int], *, everywhere: bool
    ) -> Float[Tensor, "rows variants batch *pos d_model"]:
        """What readers of one sublayer see, at all positions or at the answer's."""
        circuit = self._circuit
        known = circuit.differences if everywhere else circuit.at_answer
        if rows[0] in self._rows:
            assert self._kept is not None
            kept = self._kept[:, [self._rows.index(row) for row in rows]].swapaxes(0, 1)
        else:
            kept = circuit.kept[rows][:, None]
        kept_known = kept & ~self._writer_differs  # [rows, variants or 1, writers]
        streams = self._sum(kept_known.reshape(-1, kept.shape[2]), known)
        streams = streams.view(len(rows), -1, *known.shape[1:])
        streams += self._frame.background(rows[0], everywhere=everywhere)
        writers = self._writers_everywhere if everywhere else self._writers
        heard = circuit.kept[rows][:, writers]
        if rows[0] not in self._rows and heard.any():
            new = self._differences if everywhere else self._at_answer
            return self._sum(heard, new).add_(streams)
        return streams.expand(-1, self._variants, *streams.shape[2:]).contiguous()

    def _sum(
        self, kept: np.ndarray, values: Float[Tensor, "writers *variants_batch_pos d"]
    ) -> Float[Tensor, "rows *variants_batch_pos d"]:
        """For each row the sum of the values that it keeps."""
        used = kept.any(0).nonzero()[0].tolist()
        shape = (len(kept), *values.shape[1:])
        if not used:
            return values.new_zeros(shape)
        chosen = values if len(used) == len(values) else values[used]
        weights = torch.from_numpy(kept[:, used]).to(values)
        return (weights @ chosen.flatten(1)).view(shape)
