"""Which destinations of a circuit act on its output, on both kinds of graphs."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.graphs.reachability import Acting, reach
from sparse_lens.models.anatomy import anatomy_of


def acting_rows(model: HookedTransformer, circuit: Circuit) -> Mapping[str, Bool[Tensor, " dst"]]:
    """By block: the rows (readers, or destination channels) that act on the circuit's output.

    If the heads of a layer are coupled, all of them act as soon as one does.
    """
    graph = circuit.graph
    if isinstance(graph, ComponentGraph):
        kept = circuit.edge_mask(EDGES).numpy()
        acting = Acting.of(graph, kept, coupled=anatomy_of(model).heads_are_coupled)
        return {EDGES: torch.from_numpy(acting.readers)}
    nodes = graph.flatten(circuit.node_masks)
    return reach(graph, nodes, circuit.edge_mask).dst
