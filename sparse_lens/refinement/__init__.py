"""What a circuit can still lose: nodes, then edges, one at a time while the target is met."""

from sparse_lens.refinement.greedy import refined

__all__ = ["refined"]
