"""First-order estimates of what cutting an edge or ablating a node does to an objective.

The effect of replacing a value x by its ablated value a is, to first order, (a - x) dL/dx. The
change a - x comes from a run of the full model and the ablation; the gradient dL/dx from one or
several runs (see `points`), averaged.
"""
