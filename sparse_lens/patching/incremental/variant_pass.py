"""One batch of variants of a circuit, run through the layers."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.patching.incremental.pass_schedule import (
    HeadGroup,
    HeadsStep,
    MLPStep,
    ReaderGroup,
    Schedule,
    WriterIndices,
)
from sparse_lens.patching.incremental.spans import span
from sparse_lens.patching.incremental.state import CircuitState
from sparse_lens.patching.memory import chunks

# Streams are made and read a few variants at a time, so that they stay in the cache.
_MOST_ON_CPU = 2**18
# An MLP makes about four times the width of the stream of it.
_MLP_WIDTHS = 4


class VariantPass:
    """Variants that differ at readers of one sublayer; without any, the circuit itself.

    Args:
        rows: those readers.
        kept: what they keep in each variant, bool [variants, rows, writers].
    """

    def __init__(
        self,
        state: CircuitState,
        schedule: Schedule,
        rows: list[int] | None = None,
        kept: np.ndarray | None = None,
    ) -> None:
        self._state, self._graph, self._frame = state, state.graph, state.frame
        self._schedule, self._rows, self._kept = schedule, rows or [], kept
        self._n_variants = 1 if kept is None else len(kept)
        batch, pos, d_model = self._frame.shape
        # By how much the outputs of writers are greater than the circuit's.
        writers, everywhere = len(schedule.writers), len(schedule.writers_everywhere)
        shape = (writers, self._n_variants, batch, d_model)
        self._changes_at_answer = state.scratch("changes at the answer", shape)
        shape = (everywhere, self._n_variants, batch, pos, d_model)
        self._changes = state.scratch("changes", shape)
        self._projected: list[tuple[int, ReaderGroup, Tensor]] = []

    def run(self) -> Float[Tensor, "variants n vocab"]:
        """Logits at the answer position."""
        for step in self._schedule.steps:
            if isinstance(step, HeadsStep):
                self._run_heads(step)
            else:
                self._run_mlp(step)
        last = [streams[0] for _, streams in self._streams(self._schedule.logits)]
        return self._frame.logits(last[0] if len(last) == 1 else torch.cat(last))

    def adopt(self, variant: int) -> None:
        """Write what one of the variants computed into the circuit."""
        state, schedule = self._state, self._schedule
        if self._kept is not None:
            state.keep(self._rows, self._kept[variant])
        state.outputs.add(schedule.writers_everywhere.tolist(), self._changes[:, variant])
        state.outputs_at_answer.add(schedule.writers.tolist(), self._changes_at_answer[:, variant])
        for layer, group, values in self._projected:
            values = values[:, variant]
            state.project(layer, group.rows, values, all_positions=group.all_positions)

    # Heads.

    def _run_heads(self, step: HeadsStep) -> None:
        projected = [self._project(step.layer, group) for group in step.readers]
        parts = self._frame.layers[step.layer]
        for group in step.heads:
            queries, keys, values = (
                self._projections(step.layer, letter, group, projected) for letter in range(3)
            )
            z = self._frame.attention.attend(
                step.layer, group.heads, queries, keys, values, all_positions=group.all_positions
            )  # [heads, variants, batch, (pos), d_head]
            live = parts.write(group.heads, z.flatten(1, -2)).view(*z.shape[:-1], -1)
            self._note(group.writers, live)

    def _projections(
        self, layer: int, letter: int, group: HeadGroup, projected: list[Tensor]
    ) -> Float[Tensor, "heads variants batch *pos d_head"]:
        """Queries, keys or values of some heads; those that do not differ are the circuit's."""
        source = group.sources[letter]
        if source.group is not None and source.heads is None:
            return projected[source.group][source.rows]
        first = letter * self._graph.n_heads
        values = self._state.projected[layer][span([first + head for head in group.heads])]
        if letter == 0 and not group.all_positions:
            values = self._frame.answers.take(values)
        values = values[:, None].expand(-1, self._n_variants, *values.shape[1:])
        if source.group is not None:
            values = values.clone()
            values[source.heads] = projected[source.group][source.rows]
        return values

    def _project(
        self, layer: int, group: ReaderGroup
    ) -> Float[Tensor, "rows variants batch *pos d_head"]:
        """Queries, keys and values of readers that differ."""
        parts, first = self._frame.layers[layer], self._graph.heads(layer).readers.start
        readers = tuple(row - first for row in group.rows)
        by_chunk = []
        for chunk, streams in self._streams(group):
            n_variants = chunk.stop - chunk.start
            positions = self._frame.positions(n_variants, all_positions=group.all_positions)
            read = parts.read_(streams.flatten(1, -2), positions)  # [rows or 1, tokens, d_in]
            values = parts.project(readers, read.expand(len(readers), -1, -1))
            by_chunk.append(values.view(len(readers), *streams.shape[1:-1], self._graph.d_head))
        values = by_chunk[0] if len(by_chunk) == 1 else torch.cat(by_chunk, 1)
        self._projected.append((layer, group, values))
        return values

    # MLPs.

    def _run_mlp(self, step: MLPStep) -> None:
        all_positions = step.reader.all_positions
        for chunk, streams in self._streams(step.reader, width=_MLP_WIDTHS):
            stream = streams[0].flatten(0, 1)  # [variants * batch, (pos), d_model]
            stream = stream if all_positions else stream[:, None]
            positions = self._frame.positions(chunk.stop - chunk.start, all_positions=all_positions)
            live = self._frame.layers[step.layer].mlp(stream, positions).view(1, *streams.shape[1:])
            self._note(step.writer, live, chunk)

    # Streams.

    def _note(
        self,
        writers: WriterIndices,
        live: Float[Tensor, "writers variants batch *pos d_model"],
        chunk: slice | None = None,
    ) -> None:
        """Keep by how much the outputs of writers of one sublayer changed."""
        chunk = chunk or slice(0, self._n_variants)
        if writers.in_changes is None:
            change = live - self._state.outputs_at_answer.live[writers.in_graph][:, None]
        else:
            out = self._changes[writers.in_changes, chunk]
            before = self._state.outputs.live[writers.in_graph][:, None]
            change = self._frame.answers.take(torch.sub(live, before, out=out))
        self._changes_at_answer[writers.in_changes_at_answer, chunk] = change

    def _streams(
        self, group: ReaderGroup, *, width: int = 1
    ) -> Iterator[tuple[slice, Float[Tensor, "rows variants batch *pos d_model"]]]:
        """What readers see, in some variants at a time; given once where all see the same.

        Args:
            width: of what readers make of a stream, in widths of the stream.
        """
        n_rows, shape = len(group.kept), group.ablated_stream.shape
        variants = chunks(
            self._n_variants,
            elements=n_rows * width * shape.numel(),
            device=group.differences.device,
            most_on_cpu=_MOST_ON_CPU,
        )
        ablated = group.ablated_stream.reshape(1, -1)  # [1, features]
        if group.lose_edges:
            # ablated stream - kept @ (ablated - live), with what each variant keeps
            assert self._kept is not None
            indices = [self._rows.index(row) for row in group.rows]
            kept = self._kept[:, indices, : len(group.differences)].swapaxes(0, 1)
            kept = torch.from_numpy(kept).to(group.differences)  # [rows, variants, before]
            for chunk in variants:
                weights = kept[:, chunk].flatten(0, 1)
                streams = torch.addmm(ablated, weights, group.differences, alpha=-1)
                yield chunk, streams.view(n_rows, -1, *shape)
            return
        # The circuit's own stream, and what variants change in it: kept @ changes
        before = torch.addmm(ablated, group.kept, group.differences, alpha=-1)
        before = before.view(n_rows, 1, *shape)
        changes = self._changes if group.all_positions else self._changes_at_answer
        changes = changes[: group.kept_from_changed.shape[1]]
        for chunk in variants:
            streams = torch.mm(group.kept_from_changed, changes[:, chunk].flatten(1))
            yield chunk, streams.view(n_rows, -1, *shape).add_(before)
