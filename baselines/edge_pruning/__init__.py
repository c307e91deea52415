"""Edge Pruning: gates on edges, learned under a constraint on how many are open."""

from sparse_lens.baselines.edge_pruning.gates import EdgeGates
from sparse_lens.baselines.edge_pruning.method import EdgePruning

__all__ = ["EdgeGates", "EdgePruning"]
