"""ACDC: remove edges from the output back, one decision at a time (Conmy et al. 2304.14997)."""

from sparse_lens.baselines.acdc.method import ACDC
from sparse_lens.baselines.acdc.targets import EdgeBudget, LossTarget

__all__ = ["ACDC", "EdgeBudget", "LossTarget"]
