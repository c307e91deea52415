"""A circuit of a component graph, and what becomes of it as edges are removed."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.graphs.reachability import Acting
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.incremental.frame import Frame
from sparse_lens.patching.incremental.pass_schedule import Schedule, what_differs
from sparse_lens.patching.incremental.state import CircuitState
from sparse_lens.patching.incremental.variant_pass import VariantPass
from sparse_lens.task import Prompts


class CircuitVariants:
    """Runs circuits that differ from one at readers of a single sublayer, and moves on to them.

    The logits are those of :func:`sparse_lens.patching.run_circuit`; see
    :mod:`sparse_lens.patching.incremental` for how little is computed. No hook of the model runs.

    Args:
        kept: the circuit's edges, bool [readers, writers].

    Raises:
        ValueError: for a channel graph, or a model whose heads act on each other directly.
    """

    @torch.no_grad()
    def __init__(self, bound: BoundAblation, prompts: Prompts, kept: np.ndarray) -> None:
        graph, cfg = bound.graph, bound.model.cfg
        if not isinstance(graph, ComponentGraph):
            raise ValueError(
                f"variants are made of readers and writers, and {graph} has channels: pass an "
                "ablation that is bound to a ComponentGraph, or run each circuit with run_circuit."
            )
        if anatomy_of(bound.model).heads_are_coupled:
            raise ValueError(
                "heads of this model act on each other directly (an AbsTopK or a norm spans them), "
                "so they cannot be computed one by one: run each circuit with run_circuit."
            )
        self._state = CircuitState(graph, Frame(bound, prompts), kept)
        self._mlp_weights = (3 if cfg.gated_mlp else 2) * int(cfg.d_mlp or 0)  # a channel's
        self._schedules: dict[tuple[int, ...], Schedule] = {}
        self._acting_when_scheduled = self.acting
        self._last = VariantPass(self._state, Schedule(self._state, None, self.acting))
        self.logits: Float[Tensor, "n vocab"] = self._last.run()[0]
        """Of the circuit that it started from, at the answer position."""
        self._last.adopt(0)

    @property
    def kept(self) -> np.ndarray:
        """The circuit's edges, bool [readers, writers]; not to be written to."""
        return self._state.kept

    @property
    def acting(self) -> Acting:
        """What acts on the circuit's logits."""
        return self._state.acting

    @property
    def n_positions(self) -> int:
        """How many positions of the prompts are computed."""
        return self._state.frame.shape[1]

    @torch.no_grad()
    def run(self, rows: list[int], kept: np.ndarray) -> Float[Tensor, "variants n vocab"]:
        """Logits of variants at the answer position.

        Args:
            rows: readers of one sublayer (heads of a layer, an MLP, or the logits) that lose edges.
            kept: what they keep in each variant, bool [variants, rows, writers].
        """
        self._last = VariantPass(self._state, self._schedule(rows), rows, kept)
        return self._last.run()

    @torch.no_grad()
    def adopt(self, variant: int) -> None:
        """Let one of the variants that ran last be the circuit from now on."""
        self._last.adopt(variant)

    def drop(self, row: int) -> None:
        """Remove all edges of a reader that does not act on the logits."""
        assert not self.acting.readers[row]
        self._state.kept[row] = False

    def work(self, rows: list[int]) -> tuple[int, int]:
        """What a pass costs whose variants differ at these readers.

        Returns:
            Sublayers that it runs, and multiplications by weights for each variant.
        """
        graph, acting, frame = self._state.graph, self.acting, self._state.frame
        batch, pos, _ = frame.shape
        readers, writers = what_differs(self._state, rows, acting)
        reads = readers * np.where(acting.readers_everywhere, batch * pos, batch)
        writes = writers * np.where(acting.writers_everywhere, batch * pos, batch)
        n_sublayers, widths = 1, batch * self.logits.shape[1]
        for sublayer in graph.sublayers:
            n_sublayers += bool(readers[sublayer.readers].any())
            n_reads = int(reads[sublayer.readers].sum())
            if sublayer.kind == "mlp":
                widths += n_reads * self._mlp_weights
            else:
                widths += (n_reads + int(writes[sublayer.writers].sum())) * graph.d_head
        return n_sublayers, graph.d_model * widths

    def _schedule(self, rows: list[int]) -> Schedule:
        """Made once for the readers while edges of their sublayer are removed.

        Edges into readers of one sublayer change neither the schedules of the others in it nor
        what acts on the logits after it.
        """
        n_before = self._state.graph.n_before
        if self._schedules and n_before(next(iter(self._schedules))[0]) != n_before(rows[0]):
            self._schedules.clear()
        if not self._schedules:
            self._acting_when_scheduled = self.acting
        if tuple(rows) not in self._schedules:
            schedule = Schedule(self._state, rows, self._acting_when_scheduled)
            self._schedules[tuple(rows)] = schedule
        return self._schedules[tuple(rows)]
