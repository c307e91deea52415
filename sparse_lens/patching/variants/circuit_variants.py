"""Many circuits of a component graph that differ from one at a few readers, in one batch."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.graphs.component import LETTERS, ComponentGraph
from sparse_lens.graphs.reachability import Acting
from sparse_lens.patching.binding import BoundAblation
from sparse_lens.patching.component.writers import heads_are_coupled
from sparse_lens.patching.variants.forward import VariantPass
from sparse_lens.patching.variants.frame import Frame
from sparse_lens.patching.variants.plan import Plan, what_differs
from sparse_lens.patching.variants.spans import span
from sparse_lens.task import Prompts


class CircuitVariants:
    """A circuit as it runs on some prompts, and what becomes of it as edges are removed.

    The outputs of all its components are kept, and a variant computes only what differs: nothing
    before the first reader that loses an edge; after it, only heads and MLPs that hear of the
    difference over kept edges and are heard at the output; and only the answer position of those
    that act through it alone. The logits are those of :func:`sparse_lens.patching.run_circuit`.

    Args:
        kept: the circuit's edges, bool [readers, writers].

    Raises:
        ValueError: for a model whose heads act on each other directly.
    """

    @torch.no_grad()
    def __init__(self, bound: BoundAblation, prompts: Prompts, kept: np.ndarray) -> None:
        graph = bound.graph
        assert isinstance(graph, ComponentGraph)
        if heads_are_coupled(bound.model):
            raise ValueError(
                "heads of this model act on each other directly (an AbsTopK or a norm spans them), "
                "so they cannot be computed one by one: run each circuit with run_circuit."
            )
        self.graph, self.kept = graph, kept.copy()
        self.frame = Frame(bound, prompts, only_where_differing=True)
        self._needs: Acting | None = None
        zeros = self.frame.inputs.new_zeros
        self.differences = zeros(graph.n_writers, *self.frame.shape)
        """live - ablated, by writer; not computed where nothing needs it"""
        n_projected, shape = len(LETTERS) * graph.n_heads, self.frame.shape[:2]
        self.projected = zeros(graph.n_layers, n_projected, *shape, graph.d_head)
        """queries, keys and values of all heads, by layer; not computed where nothing needs them"""
        inputs = slice(0, graph.n_inputs)
        self.live = self.differences + self.frame.ablated(slice(None))
        self.live[inputs] = self.frame.inputs
        self.differences[inputs] = self.frame.inputs - self.frame.ablated(inputs)
        self.live_at_answer = self.frame.at_answer(self.live)
        self.differences_at_answer = self.frame.at_answer(self.differences)
        self._scratch: dict[str, Tensor] = {}
        self._plans: dict[tuple[int, ...], Plan] = {}
        self._needs_of_plans = self.needs
        self._last = VariantPass(self, Plan(self, None, self.needs))
        self.logits: Float[Tensor, "n vocab"] = self._last.run()[0]
        """of the circuit, at the answer position"""
        self._last.adopt(0)

    @property
    def needs(self) -> Acting:
        """What acts on the circuit's output."""
        if self._needs is None:
            self._needs = Acting.of(self.graph, self.kept)
        return self._needs

    @torch.no_grad()
    def run(self, rows: list[int], kept: np.ndarray) -> Float[Tensor, "variants n vocab"]:
        """Logits of variants at the answer position.

        Args:
            rows: readers of one sublayer (heads of a layer, an MLP, or the logits) that lose edges.
            kept: what they keep in each variant, bool [variants, rows, writers].
        """
        self._last = VariantPass(self, self._plan(rows), rows, kept)
        return self._last.run()

    def _plan(self, rows: list[int]) -> Plan:
        """Edges into readers of one sublayer change nothing in the plans of others there, nor what
        after it is needed.
        """
        if self._plans and self._sublayer(next(iter(self._plans))[0]) != self._sublayer(rows[0]):
            self._plans.clear()
        if not self._plans:
            self._needs_of_plans = self.needs
        if tuple(rows) not in self._plans:
            self._plans[tuple(rows)] = Plan(self, rows, self._needs_of_plans)
        return self._plans[tuple(rows)]

    def _sublayer(self, row: int) -> int:
        """How many writers come before a reader."""
        return self.graph.n_before(row)

    def work(self, rows: list[int]) -> tuple[int, int]:
        """Sublayers that a pass runs whose variants differ at these readers, and multiplications
        by weights that each variant takes.
        """
        graph, needs, (batch, pos, _) = self.graph, self.needs, self.frame.shape
        readers, writers = what_differs(self, rows, needs)
        reads = readers * np.where(needs.readers_everywhere, batch * pos, batch)
        writes = writers * np.where(needs.writers_everywhere, batch * pos, batch)
        n_sublayers, widths = 1, batch * self.frame.vocab
        for sublayer in graph.sublayers:
            n_sublayers += bool(readers[sublayer.readers].any())
            n_rows = int(reads[sublayer.readers].sum())
            if sublayer.kind == "mlp":
                widths += n_rows * self.frame.mlp_width
            else:
                widths += (n_rows + int(writes[sublayer.writers].sum())) * graph.d_head
        return n_sublayers, graph.d_model * widths

    @torch.no_grad()
    def adopt(self, variant: int) -> None:
        """Let one of the variants that ran last be the circuit from now on."""
        self._last.adopt(variant)
        self._needs = None

    def add(self, writers: list[int], changes: Tensor, *, everywhere: bool) -> None:
        """Let writers differ by so much at all positions, or at the answer's.

        Args:
            changes: [writers, batch, pos, d_model], or without pos.
        """
        live = self.live if everywhere else self.live_at_answer
        differences = self.differences if everywhere else self.differences_at_answer
        where = span(writers)
        if isinstance(where, slice):
            live[where].add_(changes)
            differences[where].add_(changes)
            return
        for writer, change in zip(writers, changes, strict=True):  # in place: no copies of many
            live[writer].add_(change)
            differences[writer].add_(change)

    def drop(self, row: int) -> None:
        """Remove all edges of a reader that does not act on the output."""
        assert not self.needs.readers[row]
        self.kept[row] = False

    def scratch(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Memory that the next pass overwrites: fresh pages cost more than what they hold."""
        size = torch.Size(shape).numel()
        if name not in self._scratch or self._scratch[name].numel() < size:
            self._scratch[name] = self.differences.new_empty(size)
        return self._scratch[name][:size].view(shape)
