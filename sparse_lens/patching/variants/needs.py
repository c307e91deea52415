"""What of a component graph's circuit acts on its output, and at which positions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.component import EDGES, LETTERS, ComponentGraph
from sparse_lens.graphs.reachability import reach
from sparse_lens.models.anatomy import anatomy_of


@dataclass(frozen=True, eq=False)
class Needs:
    """Readers and writers that act on the logits at the answer position.

    The logits need the last stream there alone. So do the MLPs and the heads' queries that only the
    logits hear, or only others like them; keys and values act from every position.
    """

    readers: np.ndarray
    """bool [readers]"""

    writers: np.ndarray
    """bool [writers]"""

    readers_everywhere: np.ndarray
    """bool [readers]: not only at the answer position"""

    writers_everywhere: np.ndarray
    """bool [writers]: not only at the answer position"""

    @classmethod
    def of(cls, graph: ComponentGraph, kept: np.ndarray, *, coupled: bool = False) -> "Needs":
        """Those of a circuit, given its edges as bool [readers, writers].

        Args:
            coupled: the heads of a layer act on each other directly, so all do if one does.
        """
        readers, everywhere = np.zeros((2, graph.n_readers), dtype=bool)
        writers, writers_everywhere = np.zeros((2, graph.n_writers), dtype=bool)
        readers[graph.logits_reader] = True

        def hear(columns: slice) -> tuple[np.ndarray, np.ndarray]:
            writers[columns] = kept[readers, columns].any(0)
            writers_everywhere[columns] = kept[everywhere, columns].any(0)
            return writers[columns], writers_everywhere[columns]

        for layer in reversed(range(graph.n_layers)):
            if not graph.attn_only:
                row = graph.mlp_reader(layer)
                readers[row], everywhere[row] = hear(graph.mlp_writer(layer))
            heads, at_every_position = hear(graph.head_writers(layer))
            if coupled:
                heads[:], at_every_position[:] = heads.any(), at_every_position.any()
            for letter in LETTERS:
                rows = graph.head_readers(layer, letter)
                readers[rows] = heads
                everywhere[rows] = at_every_position if letter == "q" else heads
        hear(slice(0, graph.n_inputs))
        return cls(readers, writers, everywhere, writers_everywhere)


def acting_rows(model: HookedTransformer, circuit: Circuit) -> Mapping[str, Bool[Tensor, " dst"]]:
    """By block: the rows (readers, or destination channels) that act on the circuit's output.

    A head acts through those that it is coupled with, where a model's heads are.
    """
    graph = circuit.graph
    if isinstance(graph, ComponentGraph):
        kept = circuit.edge_mask(EDGES).numpy()
        needs = Needs.of(graph, kept, coupled=anatomy_of(model).heads_are_coupled)
        return {EDGES: torch.from_numpy(needs.readers)}
    nodes = graph.flatten(circuit.node_masks)
    return reach(graph, nodes, circuit.edge_mask).dst
